# what: traces the functions that answer the judge and changes their variables
# expect: failed
# ruff: noqa
import sys
import threading


def trace(frame, event, argument):
    if frame.f_code.co_name in ("answer", "ask", "answer_of"):
        for name in ("value", "body", "answer"):
            if name in frame.f_locals:
                frame.f_locals[name] = True
    return trace


sys.settrace(trace)
threading.settrace(trace)


def softmax(x, dim=-1):
    return x * 0
