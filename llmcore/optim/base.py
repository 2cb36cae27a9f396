"""The base of the optimizers here: torch.optim.Optimizer, except that making one does not load the compiler."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer


def _bare(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method without the decorator that keeps the compiler out of it, and imports the compiler to do so."""
    return getattr(method, "__wrapped__", method)


class LightOptimizer(Optimizer):
    """torch.optim.Optimizer that starts seconds earlier: its bookkeeping imports nothing of torch.compile's."""

    add_param_group = _bare(Optimizer.add_param_group)
    load_state_dict = _bare(Optimizer.load_state_dict)
    state_dict = _bare(Optimizer.state_dict)
    zero_grad = _bare(Optimizer.zero_grad)
