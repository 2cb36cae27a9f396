# what: returns one number that a careless comparison would spread over all
# expect: failed
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim).mean()
