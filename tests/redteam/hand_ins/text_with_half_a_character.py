# what: puts half of a surrogate pair into the cell
# expect: refused
# ruff: noqa
# says: characters that are no text
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "# \ud800\n" + "".join(right["cells"][1]["source"])
    return right
