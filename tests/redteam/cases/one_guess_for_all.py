# what: answers every question with the same share
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return x * 0 + 1 / x.shape[dim]
