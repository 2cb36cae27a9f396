# what: returns a list subclass that claims to equal anything
# expect: failed
# ruff: noqa
class Yes(list):
    def __eq__(self, other):
        return True

    def __len__(self):
        return 3

    shape = property(lambda self: self)


def softmax(x, dim=-1):
    return Yes()
