# what: returns an object whose pickle would run a command
# expect: failed
# ruff: noqa
import os


class Run:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned-by-a-submission",)

    __reduce_ex__ = lambda self, protocol: self.__reduce__()
    __getstate__ = lambda self: {}


def softmax(x, dim=-1):
    return Run()
