# what: saves the notebook in another encoding
# expect: invalid
# ruff: noqa
# says: not UTF-8
import json


def hand_in(target, right, wrong, secret):
    return json.dumps(right).encode("utf-16")
