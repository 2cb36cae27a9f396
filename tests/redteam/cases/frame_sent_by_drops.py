# what: sends a frame one byte at a time, so that something always seems to come
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import os
import time


def softmax(x, dim=-1):
    os.write(3, b"\0\0\1\0\0\0\0\0")
    while True:
        os.write(3, b" ")
        time.sleep(0.005)
