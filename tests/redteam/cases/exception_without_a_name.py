# what: raises an exception whose class will not say its name
# expect: error
# ruff: noqa
class Nameless(type):
    @property
    def __name__(cls):
        raise ZeroDivisionError

    def mro(cls):
        return [cls, *Exception.__mro__]


class Raised(Exception, metaclass=Nameless):
    pass


def softmax(x, dim=-1):
    raise Raised
