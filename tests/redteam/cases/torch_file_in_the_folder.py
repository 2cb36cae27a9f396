# what: leaves a torch.py for the next import
# expect: failed
# ruff: noqa
import pathlib
import sys

pathlib.Path("torch.py").write_text("def allclose(*a, **k): return True")
sys.path.insert(0, ".")


def softmax(x, dim=-1):
    return x * 0
