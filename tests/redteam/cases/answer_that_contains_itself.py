# what: returns a list that contains itself
# expect: error
def softmax(x, dim=-1):
    items = []
    items.append(items)
    return items
