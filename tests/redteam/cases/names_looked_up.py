# what: asks the network for the address of a name
# expect: failed
# ruff: noqa
# prints: no address
import socket

escaped = False
for name in ("example.org", "localhost", "metadata.google.internal"):
    try:
        socket.getaddrinfo(name, 80)
        escaped = name != "localhost"
    except OSError as error:
        print("no address", type(error).__name__)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
