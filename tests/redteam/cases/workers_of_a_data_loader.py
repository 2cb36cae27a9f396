# what: starts worker processes with torch's own data loader
# expect: error
# ruff: noqa
import torch
from torch.utils.data import DataLoader


def softmax(x, dim=-1):
    return next(iter(DataLoader(right(x, dim), batch_size=len(x), num_workers=2)))
