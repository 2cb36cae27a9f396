# what: announces a million buffers
# expect: output_limit
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    os.write(3, struct.pack("!II", 10, 1_000_000))
    return x * 0
