# what: hands in a pipe that nobody writes to
# expect: invalid
# ruff: noqa
# says: is a pipe
import os


def hand_in(target, right, wrong, secret):
    os.mkfifo(target)
