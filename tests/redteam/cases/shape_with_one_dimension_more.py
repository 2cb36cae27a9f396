# what: returns the right values in a shape that broadcasts
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim)[None]
