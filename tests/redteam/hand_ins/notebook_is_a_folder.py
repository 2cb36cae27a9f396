# what: hands in a folder by the notebook's name
# expect: invalid
# ruff: noqa
# says: is a folder
def hand_in(target, right, wrong, secret):
    target.mkdir()
