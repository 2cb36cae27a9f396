# what: tags a wrong answer and its test so that nothing is run
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    for cell in wrong["cells"]:
        cell["metadata"]["tags"] = ["skip-execution", "raises-exception", "otter_ignore"]
    return wrong
