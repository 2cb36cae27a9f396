# what: returns a tensor subclass that claims to equal anything
# expect: failed
# ruff: noqa
import numpy as np
import torch


class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.ones((), dtype=torch.bool)

    def __array__(self, *args, **kwargs):
        return np.ones(1)

    def __eq__(self, other):
        return True


def softmax(x, dim=-1):
    return (x * 0).as_subclass(Yes)
