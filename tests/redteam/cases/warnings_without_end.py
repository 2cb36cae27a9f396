# what: warns without end
# expect: output_limit
# ruff: noqa
# seconds: 4
import warnings

warnings.simplefilter("always")


def softmax(x, dim=-1):
    while True:
        warnings.warn("x" * 1000)
