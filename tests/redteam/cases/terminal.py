# what: types into the terminal of whoever started the grader
# expect: failed
# ruff: noqa
# prints: tiocsti EPERM
import errno
import fcntl
import os
import termios

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


for descriptor in (0, 1, 2):
    attempt("tiocsti", lambda: fcntl.ioctl(descriptor, termios.TIOCSTI, b"x"))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
