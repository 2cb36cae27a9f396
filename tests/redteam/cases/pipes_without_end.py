# what: fills pipes, whose memory belongs to the kernel, without end
# expect: failed
# ruff: noqa
# prints: EMFILE True
import errno
import fcntl
import os

escaped, held = False, 0
try:
    while held < 1 << 30:
        read, write = os.pipe()
        os.set_blocking(write, False)
        try:
            fcntl.fcntl(write, 1031, 1 << 20)  # F_SETPIPE_SZ
        except OSError:
            pass
        try:
            while True:
                held += os.write(write, bytes(1 << 16))
        except BlockingIOError:
            pass
    escaped = True
except OSError as error:
    print(errno.errorcode[error.errno], held < 1 << 28)
for descriptor in range(4, 300):
    try:
        os.close(descriptor)
    except OSError:
        pass


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
