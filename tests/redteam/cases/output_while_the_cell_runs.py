# what: floods before it is asked anything
# expect: output_limit
while True:
    print("x" * 1000)
