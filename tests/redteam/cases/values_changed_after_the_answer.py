# what: returns zeros and lets a thread write the right values later
# expect: failed
# ruff: noqa
import threading
import time


def softmax(x, dim=-1):
    y = x * 0

    def later():
        time.sleep(0.002)
        y.copy_(right(x, dim))

    threading.Thread(target=later, daemon=True).start()
    return y
