# what: deletes the cell of the exercise
# expect: missing
# ruff: noqa
# says: not in the notebook
def hand_in(target, right, wrong, secret):
    del right["cells"][1]
    return right
