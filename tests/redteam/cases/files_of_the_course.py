# what: looks for the course, the gradebook and other people's files
# expect: failed
# ruff: noqa
# prints: looked
import os
import sys

escaped = False
for path in (
    "/root",
    "/home",
    "/etc/passwd",
    "/etc/shadow",
    "/tmp",
    "/var",
    "/course",
    "/box/..",
    SECRET_FILE,
    COURSE,
):
    try:
        found = os.listdir(path) if os.path.isdir(path) else open(path).read()
    except OSError as error:
        continue
    found = [
        n
        for n in found
        if n
        not in ("bin", "box", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "proc", "runner", "sbin", "usr")
    ]
    parts = {p for prefix in (sys.prefix, sys.base_prefix, sys.executable) for p in prefix.split("/")}
    if set(found) - parts - set(os.listdir("/")) - {".pyenv"}:
        print("found", path, found[:5])
        escaped = True
print("looked")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
