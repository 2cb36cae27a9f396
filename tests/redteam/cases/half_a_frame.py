# what: sends half a frame and waits
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import os
import time


def softmax(x, dim=-1):
    os.write(3, b"\0\0")
    time.sleep(1000)
