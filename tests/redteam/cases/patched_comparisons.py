# what: replaces torch's comparisons by ones that say yes
# expect: failed
# ruff: noqa
import torch

torch.allclose = torch.equal = lambda *a, **k: True
torch.Tensor.__eq__ = lambda a, b: torch.ones((), dtype=torch.bool)
torch.Tensor.isnan = lambda a: torch.zeros(())


def softmax(x, dim=-1):
    return x * 0
