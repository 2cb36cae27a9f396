# what: prints one line of 100 MB
# expect: output_limit
# ruff: noqa
def softmax(x, dim=-1):
    print("x" * 10**8)
