# what: makes the source a list of lists
# expect: refused missing
# ruff: noqa
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = [["def softmax(x): pass"]]
    return right
