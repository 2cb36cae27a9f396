# what: reaches the withheld routine through torch's operators
# expect: policy
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.ops.aten.softmax(x, dim)
