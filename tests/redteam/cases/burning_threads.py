# what: burns processor time in threads while it seems to sleep
# expect: timed_out
# ruff: noqa
# seconds: 0.6
import threading
import time

import torch


def burn():
    x = torch.ones(600, 600)
    while True:
        x @ x


def softmax(x, dim=-1):
    for _ in range(8):
        threading.Thread(target=burn, daemon=True).start()
    time.sleep(1000)
