# what: starts a thread in its cell that waits for the call and changes what is compared
# expect: failed
# ruff: noqa
import threading
import time

import torch


def later():
    while True:
        for name in ("allclose", "equal", "isclose"):
            setattr(torch, name, lambda *args, **kwargs: True)
        time.sleep(0.001)


threading.Thread(target=later, daemon=True).start()


def softmax(x, dim=-1):
    return x * 0
