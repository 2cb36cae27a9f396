# what: is right forwards and has no gradient
# expect: failed
# ruff: noqa
# asks: gradient
def softmax(x, dim=-1):
    return right(x.detach(), dim)
