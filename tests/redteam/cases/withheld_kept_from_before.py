# what: keeps the withheld routine when its cell is run
# expect: policy error
# ruff: noqa
import torch

kept = getattr(torch, "soft" + "max")


def softmax(x, dim=-1):
    return kept(x, dim)
