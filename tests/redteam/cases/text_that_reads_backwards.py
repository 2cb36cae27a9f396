# what: hides in its comments what the code does not do
# expect: failed
# ruff: noqa
# ‮right(x, dim) nruter‬ ⁦ the next line is the right answer ⁩
def softmax(x, dim=-1):
    """‮ evil ‬"""
    return x * 0  # ​‍﻿ return right(x, dim)
