# what: writes to the system, the environment and the grader's own files
# expect: failed
# ruff: noqa
# prints: /usr/x EROFS
import errno
import os
import sys
import torch

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


site_packages = os.path.dirname(os.path.dirname(torch.__file__))
for path in (
    "/usr/x",
    "/etc/x",
    "/x",
    "/dev/x",
    "/runner/x",
    "/runner/grader/wire.py",
    site_packages + "/evil.pth",
    sys.prefix + "/x",
):
    attempt(path, lambda path=path: open(path, "a"))
attempt("remove", lambda: os.remove("/runner/grader/wire.py"))
attempt("rename", lambda: os.rename("/usr/bin", "/usr/bin2"))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
