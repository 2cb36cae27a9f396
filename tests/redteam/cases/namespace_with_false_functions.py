# what: puts something else under the names that the judge calls
# expect: failed
# ruff: noqa
import sys

main = sys.modules["__main__"]


class Names(type(main)):
    def __getattr__(self, name):
        return lambda *args, **kwargs: True


main.__class__ = Names


class Softmax:
    def __call__(self, x, dim=-1):
        return x * 0

    def __getattr__(self, name):
        return True


softmax = Softmax()
