# what: is right when it is asked first and lazy afterwards
# expect: failed
# ruff: noqa
calls = 0


def softmax(x, dim=-1):
    global calls
    calls += 1
    return right(x, dim) if calls == 1 else x * 0
