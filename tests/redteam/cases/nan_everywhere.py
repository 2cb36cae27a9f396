# what: returns NaN, which differs from nothing in a careless comparison
# expect: failed
def softmax(x, dim=-1):
    return x * float("nan")
