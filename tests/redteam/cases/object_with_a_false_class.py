# what: returns an object that says it is a tensor
# expect: error
# ruff: noqa
import torch


class Lie:
    @property
    def __class__(self):
        return torch.Tensor

    shape = property(lambda self: torch.Size([3, 5]))
    dtype = torch.float64


def softmax(x, dim=-1):
    assert isinstance(Lie(), torch.Tensor)
    return Lie()
