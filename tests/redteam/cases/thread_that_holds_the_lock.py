# what: never lets go of the interpreter once the answer should be sent
# expect: timed_out
# ruff: noqa
# seconds: 0.5
import re
import threading
import time


def hold():
    time.sleep(0.05)
    re.match("(a+)+$", "a" * 64 + "b")


def softmax(x, dim=-1):
    threading.Thread(target=hold, daemon=True).start()
    time.sleep(0.1)
    return right(x, dim)
