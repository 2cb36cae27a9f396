# what: makes a folder in a folder in a folder
# expect: failed
# ruff: noqa
# prints: ENOSPC True
import errno
import os

escaped = False
try:
    for n in range(10**6):
        os.mkdir("d")
        os.chdir("d")
    escaped = True
except OSError as error:
    print(errno.errorcode[error.errno], n < 5000)
os.chdir("/box")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
