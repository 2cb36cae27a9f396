# what: reads address 0
# expect: crashed
# ruff: noqa
# ends: SIGSEGV
import ctypes


def softmax(x, dim=-1):
    ctypes.string_at(0)
