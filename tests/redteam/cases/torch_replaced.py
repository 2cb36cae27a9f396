# what: puts another module in the place of torch
# expect: failed error invalid
# ruff: noqa
import sys
import types


class Yes(types.ModuleType):
    def __getattr__(self, name):
        return lambda *a, **k: True


sys.modules["torch"] = Yes("torch")


def softmax(x, dim=-1):
    return x * 0
