# what: never ends while its cell is run
# expect: timed_out
# seconds: 0.4
while True:
    pass
