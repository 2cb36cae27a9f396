# what: returns a view that claims a trillion items and holds one
# expect: out_of_memory
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.zeros(1).expand(10**6, 10**6)
