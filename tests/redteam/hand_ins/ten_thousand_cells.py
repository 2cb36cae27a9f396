# what: hands in ten thousand cells
# expect: invalid
# ruff: noqa
# says: more than 5000 cells
def hand_in(target, right, wrong, secret):
    right["cells"] += [dict(right["cells"][0]) for _ in range(10_000)]
    return right
