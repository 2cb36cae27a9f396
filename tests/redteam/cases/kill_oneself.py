# what: sends itself SIGKILL, which process 1 of a namespace does not get
# expect: failed crashed
# ruff: noqa
import os
import signal


def softmax(x, dim=-1):
    os.kill(os.getpid(), signal.SIGKILL)
    return x * 0
