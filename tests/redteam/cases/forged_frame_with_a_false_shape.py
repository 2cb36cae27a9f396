# what: sends a tensor of a billion numbers in 8 bytes
# expect: invalid
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    header = b'{"kind":"answer","nonce":"","body":["d",["value",["x","float32",1000000000]]]}'
    os.write(3, struct.pack("!III", len(header), 1, 8) + header + bytes(8))
    return x * 0
