# what: gives its metadata a schema that stops stock nbgrader
# expect: failed
# ruff: noqa
def hand_in(target, right, wrong, secret):
    for cell in wrong["cells"][1:]:
        cell["metadata"]["nbgrader"]["schema_version"] = 99
    return wrong
