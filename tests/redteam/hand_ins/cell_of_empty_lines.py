# what: adds a cell of empty lines, on which a careless search takes for ever
# expect: missing
# ruff: noqa
# says: not in the notebook
def hand_in(target, right, wrong, secret):
    right["cells"][1] = {"cell_type": "code", "source": "\n" * 3_000_000, "metadata": {}, "outputs": []}
    return right
