# what: takes the next question out of the pipe to answer it at leisure
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import os


def softmax(x, dim=-1):
    os.read(3, 1 << 20)
    return x * 0
