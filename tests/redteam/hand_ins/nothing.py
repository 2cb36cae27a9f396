# what: hands in an empty folder
# expect: invalid
# ruff: noqa
# says: There is no
def hand_in(target, right, wrong, secret):
    return None
