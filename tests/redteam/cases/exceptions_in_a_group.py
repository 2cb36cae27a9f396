# what: raises a group of exceptions, one inside the other
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    error = ValueError("x")
    for _ in range(500):
        error = BaseExceptionGroup("group", [error])
    raise error
