# what: sends a header with tokens that are no JSON
# expect: invalid
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    header = b'{"kind":"answer","nonce":"","body":["d",["value",NaN]]}'
    os.write(3, struct.pack("!II", len(header), 0) + header)
    return x * 0
