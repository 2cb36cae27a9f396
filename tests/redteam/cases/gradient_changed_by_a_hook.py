# what: lets a hook replace the gradient
# expect: failed
# ruff: noqa
# asks: gradient
def softmax(x, dim=-1):
    x.register_hook(lambda grad: grad * 0 + 1)
    return right(x, dim)
