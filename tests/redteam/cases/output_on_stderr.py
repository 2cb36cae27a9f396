# what: floods standard error
# expect: output_limit
# ruff: noqa
import os


def softmax(x, dim=-1):
    while True:
        os.write(2, b"x" * 65536)
