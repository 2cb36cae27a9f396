# what: raises an exception whose text cannot be had
# expect: error
# ruff: noqa
class Silent(Exception):
    def __str__(self):
        raise Silent

    __repr__ = __str__


def softmax(x, dim=-1):
    raise Silent
