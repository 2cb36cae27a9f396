# what: returns a tensor of forty dimensions
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim).reshape([1] * 40 + list(x.shape))
