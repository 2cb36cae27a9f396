# what: gives the exercise's cell another name and a harmless cell its name
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    wrong["cells"][1]["metadata"]["nbgrader"]["grade_id"] = "mine"
    wrong["cells"].append({**right["cells"][1], "source": "def softmax(x, dim=-1):\n    return x"})
    return wrong
