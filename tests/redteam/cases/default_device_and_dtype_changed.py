# what: changes what torch makes new tensors of
# expect: failed
# ruff: noqa
import torch

torch.set_default_dtype(torch.float16)
torch.set_default_device("meta")
torch.set_grad_enabled(False)


def softmax(x, dim=-1):
    return x * 0
