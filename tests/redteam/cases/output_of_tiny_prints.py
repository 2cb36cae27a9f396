# what: prints a million times
# expect: output_limit
# ruff: noqa
# seconds: 5
def softmax(x, dim=-1):
    for _ in range(10**6):
        print("x", flush=True)
