# what: opens and makes devices
# expect: failed
# ruff: noqa
# prints: mknod EPERM
import errno
import os
import stat

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


for path in (
    "/dev/mem",
    "/dev/kmem",
    "/dev/sda",
    "/dev/vda",
    "/dev/nvidia0",
    "/dev/kvm",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/fuse",
    "/dev/loop0",
):
    attempt(path, lambda path=path: os.open(path, os.O_RDWR))
attempt("mknod", lambda: os.mknod("/box/disk", 0o600 | stat.S_IFBLK, os.makedev(254, 0)))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
