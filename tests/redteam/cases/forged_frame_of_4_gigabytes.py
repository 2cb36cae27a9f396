# what: announces a header of 4 GB
# expect: output_limit
# ruff: noqa
import os


def softmax(x, dim=-1):
    os.write(3, b"\xff" * 64)
    return x * 0
