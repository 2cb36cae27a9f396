# what: never ends while its cell is run
# expect: timed_out
# ruff: noqa
# seconds: 0.4
while True:
    pass
