# what: stops in a debugger and waits for commands
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    breakpoint()
    return right(x, dim)
