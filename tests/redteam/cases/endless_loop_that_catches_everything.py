# what: ignores signals and catches every exception
# expect: timed_out
# ruff: noqa
# seconds: 0.4
import signal
import time


def softmax(x, dim=-1):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
