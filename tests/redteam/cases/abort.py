# what: calls abort
# expect: crashed
# ruff: noqa
# ends: SIG
import os


def softmax(x, dim=-1):
    os.abort()
