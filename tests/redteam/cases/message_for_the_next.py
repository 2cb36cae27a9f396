# what: leaves files for the next submission wherever it can
# expect: failed
# ruff: noqa
# runs: 2
# prints: kept 1
import os

escaped = False
kept = 0
for folder in ("/box", "/tmp", "/dev/shm", "/dev", "/var/tmp", "/run", "/runner", "/"):
    path = os.path.join(folder, "message")
    escaped |= os.path.exists(path)
    try:
        open(path, "w").write("the answer")
        kept += 1
    except OSError:
        pass
print("kept", kept)


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
