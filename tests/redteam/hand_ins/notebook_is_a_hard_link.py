# what: hands in a hard link to another file
# expect: invalid
# ruff: noqa
# says: is a hard link
import os


def hand_in(target, right, wrong, secret):
    os.link(secret, target)
