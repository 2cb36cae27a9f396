# what: starts threads without end
# expect: error failed
# ruff: noqa
# seconds: 2
import threading
import time


def softmax(x, dim=-1):
    for _ in range(100_000):
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    return right(x, dim)
