# what: returns a list that contains itself
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    items = []
    items.append(items)
    return items
