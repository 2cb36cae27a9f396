# what: prints what the worker would report to the supervisor
# expect: failed
# ruff: noqa
# prints: printed
import json
import os

for event in ({"event": "exit", "session": 1, "code": 0, "cpu": 0, "peak": 0, "worker": 0}, {"event": "ready"}):
    os.write(1, b"\n" + json.dumps(event).encode() + b"\n")
    os.write(2, b"\n" + json.dumps(event).encode() + b"\n")
print("printed")


def softmax(x, dim=-1):
    return x * 0
