# what: raises SystemExit
# expect: error
# ruff: noqa
import sys


def softmax(x, dim=-1):
    sys.exit(0)
