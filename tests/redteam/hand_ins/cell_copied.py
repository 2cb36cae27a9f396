# what: hands in the exercise twice, first right and then wrong
# expect: failed
# ruff: noqa
# says: the last one is graded
def hand_in(target, right, wrong, secret):
    right["cells"].append(wrong["cells"][1])
    return right
