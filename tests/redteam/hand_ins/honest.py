# what: an honest notebook
# expect: passed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    return right
