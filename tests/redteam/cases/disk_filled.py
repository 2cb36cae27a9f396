# what: fills the disk
# expect: failed
# ruff: noqa
# prints: ENOSPC
import errno

escaped = False
try:
    with open("big", "wb") as one, open("big2", "wb") as two:
        for _ in range(1000):
            one.write(bytes(1 << 20))
            two.write(bytes(1 << 20))
    escaped = True
except OSError as error:
    print(errno.errorcode[error.errno])


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
