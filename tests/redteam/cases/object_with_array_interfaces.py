# what: returns an object that turns into an array of whatever is asked for
# expect: failed
# ruff: noqa
import numpy as np


class Chameleon:
    def __array__(self, *args, **kwargs):
        return np.ones((3, 5))

    def __array_ufunc__(self, *args, **kwargs):
        return True

    def __array_function__(self, *args, **kwargs):
        return True

    def __float__(self):
        return 1.0

    def __dlpack__(self, *args, **kwargs):
        raise RuntimeError

    __array_priority__ = 1e9


def softmax(x, dim=-1):
    return Chameleon()
