# what: says once more that it is ready
# expect: invalid
# ruff: noqa
import os

from grader import wire


def softmax(x, dim=-1):
    for piece in wire.encode("ready", "", {}):
        os.write(3, piece)
    return x * 0
