# what: changes the machine's clock and name
# expect: failed
# ruff: noqa
# prints: clock EPERM
import errno
import socket
import time

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


attempt("clock", lambda: time.clock_settime(time.CLOCK_REALTIME, 0))
attempt("name", lambda: socket.sethostname("owned"))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
