# what: passes descriptors to itself and looks what it can reach through the pipe
# expect: failed
# runs: 4
# ruff: noqa
import array
import os
import socket

pipe = socket.socket(fileno=os.dup(3))
pipe.setblocking(False)
escaped = False
try:
    pipe.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
    data, ancillary, _, _ = pipe.recvmsg(10, 1000)
    escaped = bool(ancillary)
except BlockingIOError:
    print("nothing to read")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
