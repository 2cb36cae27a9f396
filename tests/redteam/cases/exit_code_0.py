# what: ends the process with the exit code of success
# expect: crashed
# ruff: noqa
# ends: exit code 0
import os


def softmax(x, dim=-1):
    os._exit(0)
