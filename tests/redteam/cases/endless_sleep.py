# what: sleeps
# expect: timed_out
# ruff: noqa
# seconds: 0.4
import time


def softmax(x, dim=-1):
    time.sleep(1e6)
