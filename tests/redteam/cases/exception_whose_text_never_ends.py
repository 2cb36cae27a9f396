# what: raises an exception whose text takes for ever
# expect: timed_out
# ruff: noqa
# seconds: 0.5
class Slow(Exception):
    def __str__(self):
        while True:
            pass


def softmax(x, dim=-1):
    raise Slow
