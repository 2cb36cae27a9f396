# what: turns the cell into a shell script
# expect: refused
# ruff: noqa
# says: notebook command
def hand_in(target, right, wrong, secret):
    right["cells"][1]["source"] = "%%bash\ntouch /tmp/owned-by-a-submission"
    return right
