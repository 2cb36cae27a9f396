# what: sends a header whose keys stand twice
# expect: invalid
# ruff: noqa
import os
import struct


def softmax(x, dim=-1):
    header = b'{"kind":"answer","kind":"ready","nonce":"","body":["d"]}'
    os.write(3, struct.pack("!II", len(header), 0) + header)
    return x * 0
