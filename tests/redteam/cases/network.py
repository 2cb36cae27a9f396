# what: opens sockets of every family
# expect: failed
# ruff: noqa
# prints: AF_INET EPERM
import errno
import socket

escaped = False


def attempt(name, action):
    global escaped
    try:
        action()
        print(name, "worked")
        escaped = True
    except OSError as error:
        print(name, errno.errorcode[error.errno])


for family in ("AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_VSOCK", "AF_ALG"):
    attempt(family, lambda family=family: socket.socket(getattr(socket, family)).close())


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
