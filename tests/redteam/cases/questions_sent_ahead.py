# what: looks on the stack for questions that were sent ahead, and answers all of them at once
# expect: failed
# ruff: noqa
# prints: looked
import os
import sys

from grader import wire


def softmax(x, dim=-1):
    frame, nonces = sys._getframe(), []
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, wire.Message):
                nonces.append(value.nonce)
            pending = getattr(value, "_pending", b"")
            at = bytes(pending).find(b'"nonce":"')
            if at >= 0:
                nonces.append(bytes(pending)[at + 9 : at + 25].decode())
        frame = frame.f_back
    print("looked", len(nonces))
    reply = {
        "value": x * 0,
        "error": None,
        "error_text": "",
        "error_lines": "",
        "args_after": None,
        "kwargs_after": None,
        "grads": [],
    }
    for nonce in dict.fromkeys(nonces):
        for piece in wire.encode("answer", nonce, reply):
            os.write(3, piece)
    return x * 0
