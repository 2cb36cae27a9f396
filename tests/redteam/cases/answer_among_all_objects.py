# what: looks among all tensors of the process for one that could be the wanted value
# expect: failed
# ruff: noqa
# prints: searched
import gc

import torch


def softmax(x, dim=-1):
    found = [t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.shape == x.shape]
    for tensor in found:
        if torch.isclose(tensor.double().sum(dim), torch.ones((), dtype=torch.double)).all():
            return tensor
    print("searched", len(found))
    return x * 0
