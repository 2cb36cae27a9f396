# what: returns complex numbers whose real parts are right
# expect: failed
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.complex(right(x, dim), right(x, dim))
