# what: hands in thirty megabytes of outputs
# expect: invalid
# ruff: noqa
# says: larger than 20 MB
def hand_in(target, right, wrong, secret):
    right["cells"][1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 30_000_000}]
    return right
