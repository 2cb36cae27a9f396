# what: ends the process on the way back
# expect: crashed
# ruff: noqa
# asks: gradient
# ends: exit code 0
import os


def softmax(x, dim=-1):
    y = right(x, dim)
    y.register_hook(lambda grad: os._exit(0))
    return y
