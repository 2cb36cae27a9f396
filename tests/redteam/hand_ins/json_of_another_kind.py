# what: hands in JSON that is no notebook
# expect: invalid
# ruff: noqa
# says: no list of cells
def hand_in(target, right, wrong, secret):
    return [1, 2]
