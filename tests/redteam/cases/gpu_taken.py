# what: moves its work to a graphics card that it must not see
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return right(x.cuda(), dim).cpu()
