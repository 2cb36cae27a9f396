# what: uses a layer that is the withheld routine
# expect: policy
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.nn.Softmax(dim)(x)
