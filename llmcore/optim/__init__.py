"""Optimizers (AdamW, Muon), learning-rate schedules, parameter groups and gradient clipping.

>>> from llmcore.optim import cosine_schedule
>>> cosine_schedule(100, max_lr=1.0, min_lr=0.1, warmup_steps=10, total_steps=100)
0.1
"""

import importlib

_HOME_OF = {
    "AdamW": "adamw",
    "Muon": "muon",
    "adamw_update": "adamw",
    "clip_gradients": "gradients",
    "constant_schedule": "schedules",
    "cosine_schedule": "schedules",
    "linear_schedule": "schedules",
    "orthogonalize": "muon",
    "parameter_groups": "gradients",
    "wsd_schedule": "schedules",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
