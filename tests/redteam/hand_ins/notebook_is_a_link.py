# what: hands in a link to a file that only the grader may read
# expect: invalid
# ruff: noqa
# says: is a symbolic link
def hand_in(target, right, wrong, secret):
    target.symlink_to(secret)
