# what: leaves a mode on in which every operation of torch lies
# expect: failed error invalid
# ruff: noqa
import torch
from torch.overrides import TorchFunctionMode


class Lie(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return torch._C._VariableFunctions.ones(()) if types else function(*args, **(kwargs or {}))


Lie().__enter__()


def softmax(x, dim=-1):
    return x * 0
