# what: turns a wrong answer into text, so that it is not run
# expect: failed
# ruff: noqa
# says: no longer a code cell
def hand_in(target, right, wrong, secret):
    wrong["cells"][1]["cell_type"] = "markdown"
    return wrong
