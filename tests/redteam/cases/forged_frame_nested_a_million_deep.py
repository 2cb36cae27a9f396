# what: sends JSON nested a million levels deep
# expect: output_limit
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    header = b"[" * 1_000_000
    data = struct.pack("!II", len(header), 0) + header
    while data:
        data = data[os.write(3, data) :]
    return x * 0
