"""Low-rank adaptation: LoRA, rank-stabilized LoRA, DoRA and LoRA+, with several adapters on one base, and PEFT's files.

- `config`: LoraConfig
- `layers`: the update and the layer that carries it
- `model`: inject, switch, disable, merge, unmerge and unload adapters of a whole model
- `files`: save_adapter and load_adapter, in PEFT's format
- `lowrank`: the best approximation of a given rank
- `optim`: LoRA+, parameter groups in which B learns faster than A

>>> import torch
>>> from llmcore.lora import inject, merge
>>> from llmcore.model import ModelConfig, Transformer
>>> model = Transformer(ModelConfig(vocab_size=11, width=8, n_layers=1, n_heads=2))
>>> inject(model, ["q_proj", "v_proj"], r=2, alpha=4)
64
>>> merge(model)

Taught in: 06_lora.
"""

import importlib

_HOME_OF = {
    "LoraAdapter": "layers",
    "LoraConfig": "config",
    "LoraLinear": "layers",
    "active_adapters": "model",
    "adapter_names": "model",
    "best_rank_r": "lowrank",
    "disabled": "model",
    "inject": "model",
    "load_adapter": "files",
    "lora_layers": "model",
    "lora_parameter_groups": "optim",
    "lora_state_dict": "model",
    "merge": "model",
    "merging_errors": "model",
    "remove_adapter": "model",
    "save_adapter": "files",
    "set_adapter": "model",
    "unload": "model",
    "unmerge": "model",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
