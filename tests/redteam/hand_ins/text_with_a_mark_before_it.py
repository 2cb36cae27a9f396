# what: saves a right notebook with a byte order mark
# expect: passed
# ruff: noqa
import json


def hand_in(target, right, wrong, secret):
    return b"\xef\xbb\xbf" + json.dumps(right).encode()
