# what: looks for the packages of the course among those installed
# expect: failed
# ruff: noqa
# prints: looked
import os
import site

escaped = False
for folder in site.getsitepackages():
    for name in ("llmcore", "grader", "course"):
        path = os.path.join(folder, name)
        if os.path.isdir(path) and os.listdir(path):
            escaped = True
print("looked")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
