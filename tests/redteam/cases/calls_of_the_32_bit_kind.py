# what: uses the system calls of 32-bit programs from machine code
# expect: crashed
# ruff: noqa
# ends: SIG
# machine: x86_64
import ctypes
import mmap


def softmax(x, dim=-1):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20 (getpid); int 0x80; ret
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    return right(x, dim)
