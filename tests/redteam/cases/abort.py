# what: calls abort
# expect: crashed
# ends: SIG
import os


def softmax(x, dim=-1):
    os.abort()
