# what: hands in a link to itself
# expect: invalid
# ruff: noqa
# says: is a symbolic link
def hand_in(target, right, wrong, secret):
    target.symlink_to(target)
