# what: gives the right values and overwrites its input with them
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    x.copy_(right(x, dim))
    return x
