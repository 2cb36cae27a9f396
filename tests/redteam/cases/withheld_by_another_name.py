# what: reaches the withheld routine through a name put together at run time
# expect: policy
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return getattr(torch, "soft" + "max")(x, dim)
