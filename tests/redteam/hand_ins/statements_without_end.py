# what: fills the cell with as many statements as it will hold, which costs the grader time to read
# expect: error
# ruff: noqa
def hand_in(target, right, wrong, secret):
    wrong["cells"][1]["source"] += ["x;" * 25_000]
    return wrong
