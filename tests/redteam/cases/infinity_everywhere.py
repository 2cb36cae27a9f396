# what: returns infinity, which is as near to infinity as anything
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return x * 0 + float("inf")
