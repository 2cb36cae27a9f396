# what: takes shared memory, which some limits do not count
# expect: failed
# ruff: noqa
# prints: memfd EPERM
import errno
import mmap
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


attempt("mmap", lambda: [mmap.mmap(-1, 1 << 30) for _ in range(8)])
attempt("memfd", lambda: os.memfd_create("x"))
attempt("locked", lambda: os.close(os.open("/dev/shm/x", os.O_CREAT | os.O_RDWR)))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
