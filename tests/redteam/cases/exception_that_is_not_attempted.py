# what: says that the answer was not attempted, after looking at the question
# expect: not_attempted
# ruff: noqa
def softmax(x, dim=-1):
    raise NotImplementedError("full marks, please")
