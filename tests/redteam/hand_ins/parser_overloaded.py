# what: nests parentheses until the parser gives up
# expect: error
# ruff: noqa
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "x = " + "(" * 25_000 + ")" * 25_000
    return right
