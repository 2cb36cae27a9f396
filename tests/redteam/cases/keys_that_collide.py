# what: returns a dict whose keys were made to collide, to keep the judge busy
# expect: output_limit
# ruff: noqa
import itertools


def softmax(x, dim=-1):
    return dict.fromkeys(itertools.product((-1, -2), repeat=9), 0)
