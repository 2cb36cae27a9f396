# what: runs shell commands from the cell
# expect: refused
# ruff: noqa
# says: notebook command
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = ["!touch /tmp/owned-by-a-submission\n", *right["cells"][1]["source"]]
    return right
