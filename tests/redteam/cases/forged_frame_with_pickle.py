# what: sends a pickle that would run a command where it is read
# expect: invalid
# ruff: noqa
import os
import pickle
import struct


class Run:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned-by-a-submission",)


def softmax(x, dim=-1):
    data = pickle.dumps(Run())
    os.write(3, struct.pack("!II", len(data), 0) + data)
    return x * 0
