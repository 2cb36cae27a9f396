# what: returns the right values as nested lists
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim).tolist()
