# what: makes symbolic and hard links to what it wants to write or keep
# expect: failed
# ruff: noqa
# prints: hard EXDEV
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


os.symlink("/runner/grader/wire.py", "/box/wire.py")
os.symlink("/usr/bin", "/box/bin")
attempt("write", lambda: open("/box/wire.py", "a"))
attempt("file", lambda: open("/box/bin/python3-of-a-student", "w"))
attempt("hard", lambda: os.link("/runner/grader/wire.py", "/box/hard.py"))
attempt("map", lambda: __import__("mmap").mmap(os.open("/runner/grader/wire.py", os.O_RDWR), 10))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
