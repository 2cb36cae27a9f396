# what: raises SystemExit
# expect: error
import sys


def softmax(x, dim=-1):
    sys.exit(0)
