# what: makes files until there is no room for another name
# expect: failed
# ruff: noqa
# prints: ENOSPC True
import errno
import os

escaped = False
try:
    for n in range(10**6):
        os.symlink("x", str(n))
    escaped = True
except OSError as error:
    print(errno.errorcode[error.errno], n < 5000)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
