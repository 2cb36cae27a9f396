# what: prints a little all the time, so that something always seems to happen
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import time


def softmax(x, dim=-1):
    while True:
        print(".", flush=True)
        time.sleep(0.005)
