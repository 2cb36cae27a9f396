# what: returns a sparse tensor
# expect: error
# ruff: noqa
def softmax(x, dim=-1):
    return right(x, dim).to_sparse()
