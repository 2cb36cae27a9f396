# what: turns every clock that it can reach back
# expect: timed_out
# ruff: noqa
# seconds: 0.4
import time

time.time = time.monotonic = time.perf_counter = lambda: 0.0


def softmax(x, dim=-1):
    time.sleep(1000)
