# what: hides the nesting in a cell's metadata
# expect: invalid
# ruff: noqa
# says: nested deeper
import json


def hand_in(target, right, wrong, secret):
    right["cells"][1]["metadata"]["x"] = 0
    return json.dumps(right).encode().replace(b'"x": 0', b'"x": ' + b'{"a":' * 500 + b"1" + b"}" * 500)
