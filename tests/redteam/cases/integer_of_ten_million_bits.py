# what: returns an integer that takes long to print
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return 1 << 10**7
