# what: sends an answer of its own before it is asked
# expect: invalid
# ruff: noqa
import os

from grader import wire

reply = {
    "value": 1,
    "error": None,
    "error_text": "",
    "error_lines": "",
    "args_after": None,
    "kwargs_after": None,
    "grads": [],
}
for piece in wire.encode("answer", "0" * 16, reply):
    os.write(3, piece)


def softmax(x, dim=-1):
    return x * 0
