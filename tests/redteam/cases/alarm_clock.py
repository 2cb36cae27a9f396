# what: sets an alarm clock that would end the process in the middle of an answer
# expect: failed
# ruff: noqa
import signal
import time

signal.setitimer(signal.ITIMER_REAL, 0.001)


def softmax(x, dim=-1):
    time.sleep(0.01)
    return x * 0
