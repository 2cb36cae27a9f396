# what: writes a megabyte into the cell
# expect: refused
# ruff: noqa
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "x = 1\n" * 200_000
    return right
