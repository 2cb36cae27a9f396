# what: deletes the test of a wrong answer
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    del wrong["cells"][2]
    return wrong
