# what: closes its standard output and error
# expect: failed
# ruff: noqa
import os

os.close(1)
os.close(2)


def softmax(x, dim=-1):
    return x * 0
