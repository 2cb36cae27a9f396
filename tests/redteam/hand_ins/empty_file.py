# what: hands in an empty file
# expect: invalid
# ruff: noqa
# says: is empty
def hand_in(target, right, wrong, secret):
    return b""
