# what: sends SIGKILL to every process that it can name
# expect: failed crashed
# ruff: noqa
import os
import signal

for pid in (0, -1, *range(1, 200)):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass


def softmax(x, dim=-1):
    return x * 0
