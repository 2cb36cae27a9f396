# what: becomes root or somebody else
# expect: failed
# ruff: noqa
# prints: setuid E
import errno
import os

escaped = os.getuid() == 0 or os.geteuid() == 0


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


for name in ("setuid", "seteuid", "setgid", "setegid"):
    attempt(name, lambda: getattr(os, name)(0))
attempt("setgroups", lambda: os.setgroups([0]))
attempt("chown", lambda: (open("/box/a", "w"), os.chown("/box/a", 0, 0)))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
