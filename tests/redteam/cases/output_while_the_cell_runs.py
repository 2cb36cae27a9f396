# what: floods before it is asked anything
# expect: output_limit
# ruff: noqa
while True:
    print("x" * 1000)
