# what: finds the nonce on the stack and answers before the runner does
# expect: failed
# ruff: noqa
# prints: forged
import os
import sys

from grader import wire


def softmax(x, dim=-1):
    frame = sys._getframe()
    while frame and "message" not in frame.f_locals:
        frame = frame.f_back
    reply = {
        "value": x * 0,
        "error": None,
        "error_text": "",
        "error_lines": "",
        "args_after": None,
        "kwargs_after": None,
        "grads": [],
    }
    for piece in wire.encode("answer", frame.f_locals["message"].nonce, reply):
        os.write(3, piece)
    print("forged")
    return x * 0
