# what: raises an exception whose class is named in markup and control characters
# expect: error
# ruff: noqa
Named = type("<img src=x onerror=alert(1)>\x1b]0;owned\x07\u202e", (ValueError,), {})


def softmax(x, dim=-1):
    raise Named("=cmd|' /C calc'!A0")
