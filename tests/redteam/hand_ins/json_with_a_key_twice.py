# what: says everything twice, first right and then wrong
# expect: invalid
# ruff: noqa
import json


def hand_in(target, right, wrong, secret):
    text = json.dumps(wrong)
    return text.replace('"cells":', '"cells": [], "cells":', 1).encode()
