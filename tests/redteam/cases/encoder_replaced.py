# what: replaces the encoder by one that says what graders might look for
# expect: invalid
# ruff: noqa
import json
import struct

from grader import wire


def encode(kind, nonce, body, **more):
    header = json.dumps({"kind": kind, "nonce": nonce, "body": ["d", ["passed", True], ["points", 100]]}).encode()
    return [struct.pack("!II", len(header), 0) + header]


wire.encode = encode


def softmax(x, dim=-1):
    return x * 0
