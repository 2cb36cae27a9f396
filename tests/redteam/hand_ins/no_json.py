# what: hands in half a notebook
# expect: invalid
# ruff: noqa
# says: no valid JSON
import json


def hand_in(target, right, wrong, secret):
    return json.dumps(right).encode()[:-40]
