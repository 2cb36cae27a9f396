# what: replaces built-in functions that a comparison could use
# expect: failed crashed error
# ruff: noqa
import builtins
import math

builtins.abs = lambda x: 0
builtins.isinstance = lambda *a: True
math.isclose = lambda *a, **k: True


def softmax(x, dim=-1):
    return x * 0
