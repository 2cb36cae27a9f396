# what: loads machine code from the folder where it can write
# expect: failed
# ruff: noqa
# prints: not loaded
import ctypes
import glob
import shutil

escaped = False
source = (glob.glob("/usr/lib/*/libz.so*") + glob.glob("/usr/lib/*/libm.so*") + glob.glob("/lib*/*/libm.so*"))[0]
shutil.copy(source, "/box/own.so")
try:
    ctypes.CDLL("/box/own.so")
    escaped = True
except OSError as error:
    print("not loaded:", str(error)[:80])


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
