# what: runs programs, also ones with rights of their own
# expect: failed
# ruff: noqa
# prints: su EPERM
import errno
import os
import stat

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


attempt("su", lambda: os.execv("/usr/bin/su", ["su"]))
attempt("mount", lambda: os.execv("/usr/bin/mount", ["mount"]))
with open("/box/program", "w") as file:
    file.write("#!/bin/sh\ntrue\n")
os.chmod("/box/program", 0o4755)
attempt("own", lambda: os.execv("/box/program", ["program"]))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
