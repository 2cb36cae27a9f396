# what: returns a generator that never ends
# expect: failed
# ruff: noqa
import itertools


def softmax(x, dim=-1):
    return itertools.count()
