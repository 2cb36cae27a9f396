# what: waits for somebody to type the answer
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim) if input("the answer? ") else x * 0
