# what: hands in brackets in brackets in brackets
# expect: invalid
# ruff: noqa
def hand_in(target, right, wrong, secret):
    return b"[" * 200_000 + b"]" * 200_000
