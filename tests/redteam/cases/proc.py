# what: reads the memory, environment and arguments of other processes
# expect: failed
# ruff: noqa
# prints: FileNotFoundError
import os

escaped = bool(os.listdir("/proc"))
for path in (
    "/proc/1/environ",
    "/proc/1/cmdline",
    "/proc/self/mem",
    "/proc/self/maps",
    "/proc/2/mem",
    "/proc/sys/kernel/hostname",
):
    try:
        open(path, "rb").read(1)
        escaped = True
    except OSError as error:
        print(type(error).__name__)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
