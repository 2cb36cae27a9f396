"""`load_pretrained` and `save_pretrained`: a local Hugging Face folder to a `Transformer` and back."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from llmcore.model.hf.families import config_from_hf, config_to_hf
from llmcore.model.hf.files import TensorReader, find_files, write_files
from llmcore.model.hf.gguf import as_folder
from llmcore.model.hf.tensors import is_ignored, links
from llmcore.model.transformer import Transformer

MAX_NAMES_SHOWN = 8


def load_pretrained(
    folder: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Transformer:
    """The model of a local folder with config.json and safetensors, in eval mode; dtype None keeps the file's.

    A path that ends in .gguf is read through transformers, dequantized.

    The contents of config.json stay on the model as `hf_config`, and `save_pretrained` starts from them.

    Raises: FileNotFoundError when the folder or its files are not there; ValueError for a family that is not supported,
        and for weights that do not fit the config, naming the missing and the unexpected tensors.
    """
    folder = Path(folder)
    if folder.suffix == ".gguf":
        with as_folder(folder) as unpacked:
            return load_pretrained(unpacked, dtype=dtype, device=device)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} must be a local folder with config.json and safetensors, found "
            f"{'no config.json in it' if folder.is_dir() else 'no such folder'}; fetching a model by its name needs the "
            "network: download it first (huggingface_hub's snapshot_download) and pass the folder"
        )
    hf = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config_from_hf(hf)
    where = find_files(folder)
    # GPT-2's first files name their tensors without this.
    bare = hf["model_type"] == "gpt2" and not any(name.startswith("transformer.") for name in where)
    prefix = "transformer." if bare else ""
    found = {name if name == "lm_head.weight" else prefix + name for name in where}
    if config.n_mtp and not any(name.startswith(f"model.layers.{config.n_layers}.") for name in where):
        config = config.replace(n_mtp=0)  # announced in config.json, but not shipped
    with torch.device("meta"):
        model = Transformer(config)
    slots = _slots(model)
    all_links = list(links(hf["model_type"], config, list(slots)))
    _check_names(folder, {name for link in all_links for name in link.theirs}, found, model)
    with TensorReader(where, prefix) as reader:
        if dtype is None:
            dtype = reader.read(all_links[0].theirs[0]).dtype
        model = model.to_empty(device=device).to(dtype)
        slots = _slots(model)
        for link in all_links:
            tensors = link.to_ours([reader.read(name) for name in link.theirs])
            for name, tensor in zip(link.ours, tensors, strict=True):
                if tensor.shape != slots[name].shape:
                    raise ValueError(
                        f"{link.theirs[0]} in {folder} must be {tuple(slots[name].shape)} (as our {name}), got "
                        f"{tuple(tensor.shape)}; config.json and weights are of different models"
                    )
                slots[name].copy_(tensor)
    model.hf_config = hf
    return model.eval()


def save_pretrained(
    model: Transformer,
    folder: str | Path,
    *,
    family: str | None = None,
    max_shard_bytes: int = 5_000_000_000,
    token_ids: Mapping[str, int] | None = None,
) -> None:
    """Write config.json and safetensors that transformers (and `load_pretrained`) load.

    Without `family`, a loaded model keeps its own and any other takes the first that can say its config. `token_ids`
    are bos_token_id, eos_token_id and pad_token_id, at which transformers' generate stops; the tokenizer's files are
    its own to save.

    Raises: ValueError when no family can say the config, naming the fields in the way, for a model that carries adapters or
        quantized layers, or for max_shard_bytes below 1.
    """
    if max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be at least 1, got {max_shard_bytes}")
    _check_plain(model)
    loaded = getattr(model, "hf_config", None) or {}
    hf = config_to_hf(model.config, family or loaded.get("model_type"))
    if loaded.get("model_type") == hf["model_type"]:
        stale = {"rope_parameters", "rope_scaling", "torch_dtype", "quantization_config"}
        hf = {key: value for key, value in loaded.items() if key not in stale} | hf
    else:  # each family has token ids by default, which a model with another vocabulary must not inherit
        hf |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    hf |= dict(token_ids or {})
    slots = _slots(model)
    hf["dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pairs = (
        (name, tensor)
        for link in links(hf["model_type"], model.config, list(slots))
        for name, tensor in zip(link.theirs, link.to_theirs([slots[ours] for ours in link.ours]), strict=True)
    )
    write_files(folder, pairs, max_shard_bytes)
    (folder / "config.json").write_text(json.dumps(hf, indent=2) + "\n", encoding="utf-8")


def _check_plain(model: Transformer) -> None:
    for path, module in model.named_modules():
        if type(module).__module__.startswith(("llmcore.lora.", "llmcore.quantize.")):
            raise ValueError(
                f"{path} is a {type(module).__name__}, which this format has no place for; save adapters with llmcore.lora.save_adapter, "
                "or merge and unload them first; quantized layers are llmcore.quantize.save_quantized's to save"
            )


def _slots(model: Transformer) -> dict[str, torch.Tensor]:
    """What is stored of a model, by name, detached so that it can be written to."""
    return {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=False).items()}


def _check_names(folder: Path, wanted: set[str], found: set[str], model: Transformer) -> None:
    missing = sorted(wanted - found)
    unexpected = sorted(name for name in found - wanted if not is_ignored(name, model.config))
    if missing or unexpected:
        raise ValueError(
            f"the weights in {folder} are not those of its config.json: "
            f"missing {_shown(missing)}; unexpected {_shown(unexpected)}; this is a checkpoint of another architecture"
        )


def _shown(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + more
