# what: asks torch for 4 TB
# expect: out_of_memory
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.empty(10**12)
