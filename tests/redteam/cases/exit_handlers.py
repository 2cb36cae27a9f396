# what: registers handlers that run when the process ends
# expect: failed
# ruff: noqa
import atexit
import os
import sys
import threading

atexit.register(lambda: os.write(3, b"x" * 1000))
threading._register_atexit(lambda: os.write(3, b"x" * 1000))
sys.excepthook = threading.excepthook = sys.unraisablehook = lambda *args: os.write(3, b"x")


def softmax(x, dim=-1):
    return x * 0
