# what: takes a little of its time in every call
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import time


def softmax(x, dim=-1):
    time.sleep(0.2)
    return right(x, dim)
