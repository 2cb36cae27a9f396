# what: is right forwards and sends back a gradient of its own
# expect: failed
# ruff: noqa
# asks: gradient
import torch


class Fake(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dim):
        return right(x, dim)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def softmax(x, dim=-1):
    return Fake.apply(x, dim)
