"""What a run starts from: fresh weights, a checkpoint's, and the adapters that are to learn instead of the weights.

Taught in: 06_lora.
"""

from pathlib import Path
from typing import Any

import torch

from llmcore.model.transformer import Transformer
from llmcore.train.config import TrainConfig

ADAPTER_FOLDER = "adapter"


def start_model(config: TrainConfig, vocab_size: int) -> Transformer:
    """The model that the config names: a checkpoint's in float32, else freshly initialised from the seed.

    Raises: FileNotFoundError when init_from is not there; ValueError for a checkpoint that does not fit the data.
    """
    if config.init_from is None:
        return Transformer(config.model_config(vocab_size), torch.Generator().manual_seed(config.seed))
    model = _read_model(Path(config.init_from))
    if model.config.vocab_size < vocab_size:
        raise ValueError(
            f"init_from has a vocabulary of {model.config.vocab_size}, the data's ids go to {vocab_size - 1}; "
            "name the tokenizer that the model was trained with"
        )
    if model.config.position == "learned" and model.config.context < config.context:
        raise ValueError(
            f"context={config.context} is longer than the {model.config.context} learned positions of init_from; shorten it"
        )
    return model


def _read_model(path: Path) -> Transformer:
    from llmcore.model import ModelConfig, load_pretrained
    from llmcore.train.checkpoint import META, load_checkpoint

    if not (path / META).is_file():
        return load_pretrained(path, dtype=torch.float32)
    saved = load_checkpoint(path).model_config
    if saved is None:
        raise ValueError(f"checkpoint {str(path)!r} does not say how its model is built")
    model = Transformer(ModelConfig.from_dict(saved), torch.Generator().manual_seed(0))
    load_checkpoint(path, model)
    return model


def tokenizer_beside(init_from: str) -> Any:
    """The tokenizer that goes with a checkpoint: of its run, or in its Hugging Face folder.

    Raises: ValueError when there is none.
    """
    from llmcore.tokenizer import BPETokenizer

    path = Path(init_from)
    own = path.parent.parent / "tokenizer.json"
    if path.parent.name == "checkpoints" and own.is_file():
        return BPETokenizer.load(own)
    if (path / "tokenizer.json").is_file():
        return BPETokenizer.from_tokenizer_json(path / "tokenizer.json")
    raise ValueError(f"there is no tokenizer.json with {init_from!r}; name the model's own with the setting tokenizer")


def add_adapters(config: TrainConfig, model: Transformer) -> None:
    """Quantize the model and put adapters on it, in place, as the config's lora says; all else is frozen.

    A model that carries adapters already is left as it is.
    """
    from llmcore.lora import inject, lora_layers
    from llmcore.quantize import quantize_model

    if lora_layers(model):
        return
    if config.lora.get("quantize") is not None:
        quantize_model(model, method=config.lora["quantize"])
    inject(model, config.lora_config(), generator=torch.Generator().manual_seed(config.seed))


def save_adapters(config: TrainConfig, model: Transformer) -> None:
    """Write the adapter in PEFT's format beside the checkpoints."""
    from llmcore.lora import save_adapter

    save_adapter(model, Path(config.out_dir) / ADAPTER_FOLDER, base_model=config.init_from)
