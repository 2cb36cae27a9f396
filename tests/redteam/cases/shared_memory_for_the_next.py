# what: leaves shared memory, semaphores and queues for the next submission
# expect: failed
# ruff: noqa
# prints: shmget EPERM
import ctypes
import errno

libc = ctypes.CDLL(None, use_errno=True)
escaped = False
for name, arguments in (("shmget", (77, 4096, 0o1666)), ("semget", (77, 1, 0o1666)), ("msgget", (77, 0o1666))):
    if getattr(libc, name)(*arguments) >= 0:
        escaped = True
    print(name, errno.errorcode[ctypes.get_errno()])


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
