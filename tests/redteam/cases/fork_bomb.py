# what: forks without end
# expect: failed
# ruff: noqa
# prints: fork EPERM
import errno
import os

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


for _ in range(100):
    attempt("fork", os.fork)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
