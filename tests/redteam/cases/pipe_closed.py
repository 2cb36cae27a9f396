# what: closes the pipe on which it is asked and lives on
# expect: crashed
# ruff: noqa
# ends: closed its pipe
import os
import time


def softmax(x, dim=-1):
    os.close(3)
    time.sleep(1000)
