# what: asks torch for 512 threads
# expect: failed crashed timed_out error
# ruff: noqa
# seconds: 1
import torch


def softmax(x, dim=-1):
    torch.set_num_threads(512)
    torch.ones(500, 500) @ torch.ones(500, 500)
    return x * 0
