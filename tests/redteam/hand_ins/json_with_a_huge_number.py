# what: hands in a number of a million digits
# expect: invalid
# ruff: noqa
def hand_in(target, right, wrong, secret):
    return b'{"nbformat": 4, "cells": [], "x": ' + b"9" * 1_000_000 + b"}"
