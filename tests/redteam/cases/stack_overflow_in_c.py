# what: overflows the stack of native code
# expect: crashed error out_of_memory
# ruff: noqa
# seconds: 2
import sys

sys.setrecursionlimit(10**9)


class Deep:
    def __getattr__(self, name):
        return getattr(self, name + "x"[:0])


def softmax(x, dim=-1):
    return Deep().a
