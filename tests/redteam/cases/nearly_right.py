# what: is off by a tenth of a percent
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim) * 1.001
