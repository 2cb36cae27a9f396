# what: sends every signal to its parent and its group
# expect: error
# ruff: noqa
import os

for number in range(1, 32):
    for pid in (os.getppid(), 0, -1):
        if number in (11, 6, 4, 8, 7, 5):
            continue
        try:
            os.kill(pid, number)
        except OSError:
            pass


def softmax(x, dim=-1):
    return x * 0
