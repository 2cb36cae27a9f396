# what: doubles a byte array for ever
# expect: out_of_memory
# ruff: noqa
# seconds: 3
def softmax(x, dim=-1):
    data = bytearray(1 << 20)
    while True:
        data = data + data
