# what: returns a promise instead of a value
# expect: failed
# ruff: noqa
async def softmax(x, dim=-1):
    return right(x, dim)
