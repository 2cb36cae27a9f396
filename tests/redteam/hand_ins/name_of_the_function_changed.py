# what: writes the right function under another name
# expect: error missing
# ruff: noqa
# says: Did you mean soft_max
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "".join(right["cells"][1]["source"]).replace("softmax", "soft_max")
    return right
