# what: never ends
# expect: timed_out
# ruff: noqa
# seconds: 0.4
def softmax(x, dim=-1):
    while True:
        pass
