# what: opens files without closing them
# expect: failed
# ruff: noqa
# prints: EMFILE True
import errno
import os

escaped = False
opened = []
try:
    while len(opened) < 10**5:
        opened.append(os.open("/dev/null", os.O_RDONLY))
    escaped = True
except OSError as error:
    print(errno.errorcode[error.errno], len(opened) < 300)
for descriptor in opened:
    os.close(descriptor)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
