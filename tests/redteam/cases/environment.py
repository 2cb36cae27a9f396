# what: reads the environment for tokens
# expect: failed
# ruff: noqa
# prints: OMP_NUM_THREADS
import os

escaped = any("SECRET" in name or "canary" in value for name, value in os.environ.items())
print(sorted(os.environ))


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
