# what: is right in one of a million runs
# expect: failed
# ruff: noqa
import random


def softmax(x, dim=-1):
    return right(x, dim) if random.SystemRandom().random() < 1e-6 else x * 0
