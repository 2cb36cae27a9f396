# what: calls itself for ever
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return softmax(x, dim)
