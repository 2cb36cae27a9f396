# what: makes a process by the system call itself, in new namespaces
# expect: failed
# ruff: noqa
# prints: clone EPERM
import ctypes
import errno
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
escaped = False
number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
for flags in (17, 17 | 0x10000000, 17 | 0x20000000, 0x4000 | 0x100 | 17):
    result = libc.syscall(number, flags, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    escaped |= result > 0
    print("clone", errno.errorcode.get(ctypes.get_errno()))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
