# what: makes its metadata lists, numbers and null
# expect: missing
# ruff: noqa
def hand_in(target, right, wrong, secret):
    for cell, value in zip(right["cells"], ([], 7, None, {"nbgrader": [1]})):
        cell["metadata"] = value
    return right
