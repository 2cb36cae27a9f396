# what: returns an object with every method that a comparison could ask for
# expect: failed
# ruff: noqa
class Yes:
    def __getattr__(self, name):
        return self

    def __call__(self, *args, **kwargs):
        return self

    def __eq__(self, other):
        return True

    def __bool__(self):
        return True

    def __float__(self):
        return 0.0


def softmax(x, dim=-1):
    return Yes()
