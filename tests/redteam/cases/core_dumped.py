# what: dumps its memory into a file
# expect: crashed
# ruff: noqa
# prints: core stays (0, 0)
import os
import resource

try:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (OSError, ValueError):
    print("core stays", resource.getrlimit(resource.RLIMIT_CORE), flush=True)


def softmax(x, dim=-1):
    os.abort()
