# what: uses the system calls of the x32 kind, past a careless filter
# expect: crashed
# ruff: noqa
# ends: SIGSYS
# machine: x86_64
import ctypes


def softmax(x, dim=-1):
    ctypes.CDLL(None).syscall(0x40000000 + 39)
    return right(x, dim)
