# what: returns more items than a frame may hold
# expect: error
# ruff: noqa
# seconds: 4
def softmax(x, dim=-1):
    return [0.5] * 10**6
