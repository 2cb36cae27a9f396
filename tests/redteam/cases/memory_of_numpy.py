# what: asks NumPy for 2 GB
# expect: out_of_memory
# ruff: noqa
import numpy as np


def softmax(x, dim=-1):
    return np.ones(2**28)
