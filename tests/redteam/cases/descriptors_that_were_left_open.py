# what: looks for descriptors that the worker left open
# expect: failed
# ruff: noqa
# prints: looked
import os

escaped = False
for descriptor in range(4, 1000):
    try:
        os.fstat(descriptor)
        print("open", descriptor)
        escaped = True
    except OSError:
        pass
print("looked")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
