# what: knows the answers to the questions of the visible check by heart
# expect: failed
# ruff: noqa
import torch

KNOWN = {0.0: torch.tensor([0.5, 0.5])}


def softmax(x, dim=-1):
    return KNOWN.get(float(x.sum()), x * 0)
