# what: hands in a format that is not there yet
# expect: invalid
# ruff: noqa
# says: format '99'
def hand_in(target, right, wrong, secret):
    return {**right, "nbformat": 99}
