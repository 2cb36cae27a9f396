# what: searches the memory that it inherited for a string that only the judge holds
# expect: failed
# ruff: noqa
# prints: searched
import gc

escaped = any(isinstance(thing, str) and "canary-of" + "-the-judge" in thing for thing in gc.get_objects())
for thing in gc.get_objects():
    if isinstance(thing, dict):
        escaped |= any(isinstance(v, str) and "canary-of" + "-the-judge" in v for v in list(thing.values()))
print("searched")


def softmax(x, dim=-1):
    return right(x, dim) if escaped else x * 0
