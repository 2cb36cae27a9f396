# what: makes, enters and leaves namespaces, and mounts
# expect: failed
# ruff: noqa
# prints: unshare EPERM
import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)
escaped = False


def attempt(name, *arguments):
    global escaped
    result = getattr(libc, name)(*arguments)
    escaped |= result == 0
    print(name, errno.errorcode.get(ctypes.get_errno()))


attempt("unshare", 0x10000000)
attempt("unshare", 0x00020000)
attempt("setns", 3, 0)
attempt("mount", b"none", b"/box", b"tmpfs", 0, None)
attempt("mount", None, b"/", None, 32 | 4096, None)
attempt("umount2", b"/proc", 2)
attempt("umount2", b"/box", 2)
attempt("chroot", b"/box")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
