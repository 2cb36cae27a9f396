# what: lets torch load a pickle that runs a command
# expect: failed
# ruff: noqa
# prints: command ran: False
import io
import os
import pickle

import torch


class Run:
    def __reduce__(self):
        return os.system, ("touch /tmp/owned-by-a-submission; touch /box/owned",)


pickle.loads(pickle.dumps(Run()))
print("command ran:", os.path.exists("/box/owned"))


def softmax(x, dim=-1):
    return x * 0
