# what: replaces the functions that answer the judge
# expect: failed
# ruff: noqa
import torch

from grader import calling, policy, wire

calling.answer_of = lambda *a, **k: calling.Answer(value=torch.ones(()))
policy.Withheld.__exit__ = lambda *a: True
wire.ProtocolError = wire.WireError = KeyError


def softmax(x, dim=-1):
    return x * 0
