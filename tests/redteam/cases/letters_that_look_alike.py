# what: writes the withheld name in letters that only look different
# expect: policy
# ruff: noqa
import torch


def softmax(x, dim=-1):
    return torch.𝐬𝐨𝐟𝐭𝐦𝐚𝐱(x, dim)
