# what: is right forwards and hangs on the way back
# expect: timed_out
# ruff: noqa
# asks: gradient
# seconds: 0.5
import torch


class Slow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        while True:
            pass


def softmax(x, dim=-1):
    return right(Slow.apply(x), dim)
