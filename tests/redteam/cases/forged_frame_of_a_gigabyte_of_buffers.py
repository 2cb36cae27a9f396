# what: announces more buffers than the judge will take
# expect: output_limit
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    os.write(3, struct.pack("!II8I", 10, 8, *[1 << 27] * 8))
    return x * 0
