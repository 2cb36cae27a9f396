"""The language model: its configuration, the Transformer, presets, and Hugging Face weights in and out.

- `config`: ModelConfig, which says the architecture
- `transformer`: ids in, logits out; built from `attention`, `block`, `rotary`, `mtp`, started by `init`
- `cache`: keys and values of what has been read
- `losses`: the training loss and its parts
- `presets`: named configs
- `hf`: load_pretrained and save_pretrained

Taught in: 02_attention_scaling.
"""

import importlib
from typing import Any

_HOMES = {
    "LatentConfig": "config",
    "ModelCache": "cache",
    "ModelConfig": "config",
    "MoeConfig": "config",
    "PRESETS": "presets",
    "Transformer": "transformer",
    "load_pretrained": "hf",
    "save_pretrained": "hf",
    "training_loss": "losses",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
