# what: hands in millions of empty lists
# expect: invalid
# ruff: noqa
# says: too many items
def hand_in(target, right, wrong, secret):
    return b'{"nbformat": 4, "cells": [' + b"[]," * 2_500_000 + b"[]]}"
