# what: hands in the format of 2013
# expect: invalid
# ruff: noqa
# says: old format
def hand_in(target, right, wrong, secret):
    return {"nbformat": 3, "worksheets": [{"cells": right["cells"]}]}
