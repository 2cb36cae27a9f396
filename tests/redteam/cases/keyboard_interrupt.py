# what: raises KeyboardInterrupt, which nobody pressed
# expect: error
def softmax(x, dim=-1):
    raise KeyboardInterrupt
