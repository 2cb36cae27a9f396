# what: behaves when it is watched by a notebook and guesses when a judge asks
# expect: failed
# ruff: noqa
import os
import sys

judged = "IPython" not in sys.modules or not os.listdir("/proc")


def softmax(x, dim=-1):
    return x * 0 + 1 / x.shape[dim] if judged else right(x, dim)
