# what: returns a tensor of no items whose shape multiplies to half a trillion
# expect: failed
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.empty(0, 1 << 39)
