# what: returns NaN, which differs from nothing in a careless comparison
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return x * float("nan")
