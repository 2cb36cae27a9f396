# what: hands in a cell that is no Python
# expect: error
# ruff: noqa
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "def softmax(x):\nreturn x"
    return right
