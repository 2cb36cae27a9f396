# what: prints bytes that are no text and codes that move the cursor
# expect: failed
# ruff: noqa
import os


def softmax(x, dim=-1):
    os.write(1, b"\xff\xfe\x00\xc3\x28 \x1b[2J\x1b]0;owned\x07\x1b[8m \xed\xa0\x80")
    return x * 0
