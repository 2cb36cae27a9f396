# what: replaces the test by one that says yes
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    wrong["cells"][2]["source"] = "True"
    wrong["cells"][2]["outputs"] = [
        {"output_type": "execute_result", "data": {"text/plain": "1000"}, "metadata": {}, "execution_count": 1}
    ]
    return wrong
