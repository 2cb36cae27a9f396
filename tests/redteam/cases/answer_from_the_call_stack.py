# what: looks for the wanted value in the frames that called it
# expect: failed
# ruff: noqa
# prints: searched True
import sys

import torch


def softmax(x, dim=-1):
    frame, seen = sys._getframe(1), 0
    while frame:
        for value in list(frame.f_locals.values()):
            seen += 1
            for item in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(item, torch.Tensor) and item.shape == x.shape and bool((item > 0).all()):
                    return item
        frame = frame.f_back
    print("searched", seen > 0)
    return x * 0
