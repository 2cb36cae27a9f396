# what: a right answer that prints, uses NumPy, threads and the disk as a learner may
# expect: passed
# ruff: noqa
# prints: called with
import colorsys
import graphlib
import pathlib
import tempfile
import threading

import numpy as np
import torch

display("hello")


def softmax(x, dim=-1):
    print("called with", x.shape)
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "note").write_text("x")
    results = []
    thread = threading.Thread(target=lambda: results.append(np.exp(x.numpy() - x.numpy().max(dim, keepdims=True))))
    thread.start()
    thread.join()
    return torch.from_numpy(results[0] / results[0].sum(dim, keepdims=True))
