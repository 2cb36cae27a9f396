# what: reads address 0
# expect: crashed
# ends: SIGSEGV
import ctypes


def softmax(x, dim=-1):
    ctypes.string_at(0)
