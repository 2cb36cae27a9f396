# what: makes a string of 10 GB
# expect: out_of_memory
# ruff: noqa
def softmax(x, dim=-1):
    print("x" * 10**10)
