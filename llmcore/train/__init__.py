"""The trainer: `Trainer(TrainConfig(...)).fit()`, or `llmcore-train CONFIG.toml`, on one device or under torchrun on many.

- `config`: TrainConfig, where every setting and its default stands
- `trainer`: the loop; `objective` what it minimises, `loss` the chunked cross-entropy
- `prepare`: from text to tokens and sources; `parallel`: DDP and FSDP2; `checkpoint`: saving and resuming; `report`: progress and logs
"""

import importlib

_HOME_OF = {
    "Checkpoint": "checkpoint",
    "latest_checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "TrainConfig": "config",
    "linear_cross_entropy": "loss",
    "NonFiniteError": "diagnosis",
    "TrainResult": "trainer",
    "Trainer": "trainer",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
