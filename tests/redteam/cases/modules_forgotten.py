# what: throws every module away
# expect: failed error crashed
# ruff: noqa
import sys

for name in list(sys.modules):
    if name not in ("sys", "builtins"):
        del sys.modules[name]


def softmax(x, dim=-1):
    return x * 0
