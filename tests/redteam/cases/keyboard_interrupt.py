# what: raises KeyboardInterrupt, which nobody pressed
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    raise KeyboardInterrupt
