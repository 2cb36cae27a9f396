# what: returns a tensor of 400 MB
# expect: out_of_memory error
# ruff: noqa
# seconds: 4
import torch


def softmax(x, dim=-1):
    return torch.zeros(10**8)
