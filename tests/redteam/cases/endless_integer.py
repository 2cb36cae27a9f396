# what: computes an integer of 300 million digits
# expect: timed_out out_of_memory
# ruff: noqa
# seconds: 0.4
def softmax(x, dim=-1):
    return len(str(10 ** (3 * 10**8)))
