# what: hangs inside one call of native code
# expect: timed_out
# ruff: noqa
# seconds: 0.4
import re


def softmax(x, dim=-1):
    re.match("(a+)+$", "a" * 64 + "b")
