# what: replaces the methods with which a tensor would be sent
# expect: failed error
# ruff: noqa
import torch

for name in ("contiguous", "reshape", "numpy", "view", "detach", "clone", "resolve_conj", "tolist"):
    setattr(torch.Tensor, name, lambda self, *args, **kwargs: torch.ones(3, 5))


def softmax(x, dim=-1):
    return x * 0
