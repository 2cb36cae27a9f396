# what: gives itself a thousand points
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    wrong["cells"][2]["metadata"]["nbgrader"].update(points=1000, checksum="0" * 32, cell_type="code")
    wrong["cells"][1]["metadata"]["nbgrader"].update(grade=True, points=1000, locked=False)
    return wrong
