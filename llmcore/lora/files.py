"""Adapters in PEFT's files: a folder with adapter_config.json and adapter_model.safetensors.

An adapter trained on a `Transformer` is saved under the layer names of the Hugging Face model that it corresponds to, so
PEFT loads it there, and what PEFT saved loads here. Other models keep their own names.

Left out on purpose, and refused by name: adapters that also hold biases, embeddings or whole layers, and those that
changed the base's weights at their start (PiSSA, OLoRA, ...).

Taught in: 06_lora.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmcore.lora.bases import layer_sizes, read_weight
from llmcore.lora.config import LoraConfig, update_scale
from llmcore.lora.layers import DEFAULT, LoraAdapter, LoraLinear
from llmcore.lora.model import adapter_names, add_adapters, check_unmerged, lora_layers, make_adapter, set_adapter
from llmcore.lora.naming import (
    Update,
    adaptable_layers,
    alpha_of,
    join_updates,
    name_layers,
    shortest_targets,
    split_update,
)

CONFIG_FILE, TENSOR_FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LEAVES = {"lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude", "lora_magnitude_vector.weight": "magnitude"}  # fmt: skip
# Settings of PEFT that change what an adapter computes and that we do not compute.
UNSUPPORTED = (
    "modules_to_save", "lora_bias", "layer_replication", "trainable_token_indices", "target_parameters", "use_qalora",
    "use_bdlora", "alora_invocation_tokens", "monteclora_config", "kasa_config", "velora_config", "arrow_config",
)  # fmt: skip
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
MAX_NAMES_SHOWN = 6


def save_adapter(
    model: nn.Module, folder: str | Path, adapter: str | None = None, *, base_model: str | None = None
) -> None:
    """Write one adapter (which may be left out where there is but one) as PEFT does; `base_model` is noted in its config.

    Raises: ValueError when there is no adapter, no such one, or several and none was named.
    Taught in: 06_lora.
    """
    name = _chosen(model, adapter)
    names = name_layers(model)
    layers = {path: layer for path, layer in lora_layers(model).items() if name in layer.adapters}
    one = next(iter(layers.values())).adapters[name]
    updates = {}
    for theirs, ours in names.ours_of.items():
        parts = [_update_of(layers[path].adapters[name]) if path in layers else None for path in ours]
        if any(part is not None for part in parts):
            updates[theirs] = parts[0] if len(parts) == 1 else join_updates(parts, _row_norms(model, ours))
    config = _peft_config(updates, one, names.ours_of)
    config |= {
        "base_model_name_or_path": base_model or getattr(getattr(model, "config", None), "_name_or_path", None) or None,
        "fan_in_fan_out": names.fan_in_fan_out,
        "task_type": "CAUSAL_LM" if names.is_language_model else None,
    }
    tensors = {}
    for path, update in updates.items():
        held = {"lora_A.weight": update.a, "lora_B.weight": update.b, "lora_magnitude_vector": update.magnitude}
        tensors |= {f"{PREFIX}{path}.{leaf}": tensor for leaf, tensor in held.items() if tensor is not None}
    _write(Path(folder), config, tensors)


def _chosen(model: nn.Module, adapter: str | None) -> str:
    names = adapter_names(model)
    if not names:
        raise ValueError("this model carries no adapter to save; add one with inject")
    if adapter is None and len(names) > 1:
        raise ValueError(f"there are the adapters {', '.join(names)}; name the one to save")
    if adapter is not None and adapter not in names:
        raise ValueError(f"there is no adapter {adapter!r}; there are {', '.join(names)}")
    return adapter or names[0]


def _update_of(one: LoraAdapter) -> Update:
    magnitude = None if one.magnitude is None else one.magnitude.detach()
    return Update(one.lora_a.detach(), one.lora_b.detach(), one.scale, magnitude)


def _row_norms(model: nn.Module, paths: tuple[str, ...]) -> list[Tensor]:
    bases = [model.get_submodule(path) for path in paths]
    return [read_weight(getattr(base, "base", base)).detach().float().norm(dim=1) for base in bases]


def _peft_config(updates: dict[str, Update], one: LoraAdapter, all_names: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that PEFT reads; layers off the most common rank or alpha go into its patterns."""
    ranks = {path: update.rank for path, update in updates.items()}
    alphas = {path: alpha_of(update.scale, update.rank, one.rank_stabilized) for path, update in updates.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {re.escape(path): value for path, value in ranks.items() if value != rank},
        "alpha_pattern": {re.escape(path): value for path, value in alphas.items() if value != alpha},
        "target_modules": shortest_targets(set(updates), all_names),
        "lora_dropout": one.dropout,
        "use_rslora": one.rank_stabilized,
        "use_dora": one.dora,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    held = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    save_file(held, folder / f"{TENSOR_FILE}.partial", metadata={"format": "pt"})
    (folder / f"{CONFIG_FILE}.partial").write_text(
        json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    for name in (TENSOR_FILE, CONFIG_FILE):
        (folder / f"{name}.partial").replace(folder / name)


def load_adapter(
    model: nn.Module, folder: str | Path, adapter: str = DEFAULT, *, trainable: bool = False
) -> LoraConfig:
    """Add the adapter of a PEFT folder to the model, where it then acts alone; its config.

    Where layers differ in rank or alpha, the config has the most common. The base is frozen; the adapter learns on if `trainable`. An adapter of that name with the same layers and ranks is
    overwritten in place.

    Raises: FileNotFoundError when the files are not there; ValueError, the model untouched, for a damaged file, a kind of
        adapter that is not supported, or one of another base (naming layers that are missing here and shapes that differ);
        RuntimeError while adapters are merged.
    Taught in: 06_lora.
    """
    folder = Path(folder)
    config, settings = _read_config(folder)
    tensors = _read_tensors(folder)
    updates = _gather(folder, tensors, settings)
    names = name_layers(model)
    layers = adaptable_layers(model)
    check_unmerged(lora_layers(model))
    _check_base(folder, updates, names.ours_of, layers)
    ours = _as_ours(updates, names.ours_of, layers)
    made = {path: _make(path, layers[path], update, config) for path, update in ours.items()}
    present = {path: layer for path, layer in lora_layers(model).items() if adapter in layer.adapters}
    if present:
        _overwrite(adapter, present, made)
    else:
        add_adapters(model, adapter, {path: (layers[path], one) for path, one in made.items()})
    set_adapter(model, adapter, trainable=trainable)
    rank, alpha = (
        Counter(getattr(one, name) for one in made.values()).most_common(1)[0][0] for name in ("rank", "alpha")
    )
    return replace(config, rank=rank, alpha=alpha, targets=tuple(shortest_targets(set(ours), layers)))


def _read_config(folder: Path) -> tuple[LoraConfig, dict[str, Any]]:
    """Our config (targets aside) and all of PEFT's settings."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        found = sorted(file.name for file in folder.iterdir())[:5] if folder.is_dir() else []
        raise FileNotFoundError(
            f"{folder} must hold {CONFIG_FILE} and {TENSOR_FILE}, found "
            f"{', '.join(found) or ('nothing' if folder.is_dir() else 'no such folder')}; "
            "fetching an adapter by its name needs the network: download it first and pass the folder"
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file ({error}); copy it again") from None
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise ValueError(f"{path} must be of a LoRA adapter, got peft_type {kind!r}; others are not supported")
    start = str(settings.get("init_lora_weights", True)).lower()
    refused = [name for name in UNSUPPORTED if settings.get(name)]
    refused += ["bias"] if settings.get("bias", "none") != "none" else []
    if refused or start.startswith(CHANGES_BASE):
        what = ", ".join(f"{name}={settings[name]!r}" for name in refused) or f"init_lora_weights={start!r}"
        raise ValueError(
            f"{path} has {what}, which is not supported here; merge it with PEFT and load the merged model instead"
        )
    if not {"r", "lora_alpha"} <= set(settings):
        raise ValueError(f"{path} must say r and lora_alpha; save the adapter again with PEFT or save_adapter")
    config = LoraConfig(
        rank=settings["r"], alpha=settings["lora_alpha"], dropout=settings.get("lora_dropout", 0.0),
        rank_stabilized=settings.get("use_rslora", False), dora=settings.get("use_dora", False),
    )  # fmt: skip
    return config, settings


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / TENSOR_FILE
    if not path.is_file():
        other = (
            " (there is adapter_model.bin: save it again with a newer PEFT)"
            if (folder / "adapter_model.bin").is_file()
            else ""
        )
        raise FileNotFoundError(f"{folder} has no {TENSOR_FILE}{other}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); copy it again") from None


def _gather(folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> dict[str, Update]:
    """Their layer to its update."""
    parts: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in tensors.items():
        leaf = next((leaf for leaf in LEAVES if name.endswith(f".{leaf}")), None)
        if leaf is None or not name.startswith(PREFIX):
            strange.append(name)
        else:
            parts.setdefault(name.removeprefix(PREFIX).removesuffix(f".{leaf}"), {})[LEAVES[leaf]] = tensor
    needed = {"a", "b"} | ({"magnitude"} if settings.get("use_dora") else set())
    incomplete = [path for path, held in parts.items() if set(held) != needed]
    if strange or incomplete or not parts:
        raise ValueError(
            f"{folder / TENSOR_FILE} is no adapter of linear layers: tensors that are not understood {_shown(strange)}; "
            f"layers without all of {', '.join(sorted(needed))} {_shown(incomplete)}; got {len(tensors)} tensors"
        )
    stabilized = settings.get("use_rslora", False)
    updates = {}
    for path, held in parts.items():
        rank = _by_pattern(settings.get("rank_pattern"), path, settings["r"])
        alpha = _by_pattern(settings.get("alpha_pattern"), path, settings["lora_alpha"])
        if held["a"].ndim != 2 or held["b"].ndim != 2 or not held["a"].shape[0] == held["b"].shape[1] == rank:
            raise ValueError(
                f"{path} in {folder} must be of rank {rank} as {CONFIG_FILE} says, got A {tuple(held['a'].shape)} and "
                f"B {tuple(held['b'].shape)}; the two files are of different adapters"
            )
        if not all(tensor.isfinite().all() for tensor in held.values()):
            raise ValueError(f"{path} in {folder} has values that are not finite; load an earlier adapter")
        updates[path] = Update(held["a"], held["b"], update_scale(rank, alpha, stabilized), held.get("magnitude"))
    return updates


def _by_pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that fits the path's end, as PEFT looks it up."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _check_base(
    folder: Path, updates: dict[str, Update], ours_of: Mapping[str, tuple[str, ...]], layers: Mapping[str, nn.Module]
) -> None:
    strangers = [path for path in updates if path not in ours_of]
    differing = []
    for path, update in updates.items():
        if path in ours_of:
            sizes = [_sizes(layers[ours]) for ours in ours_of[path]]
            wanted = (sizes[0][0], sum(size[1] for size in sizes))
            got = (update.a.shape[1], update.b.shape[0])
            if got != wanted or (update.magnitude is not None and update.magnitude.shape != (wanted[1],)):
                differing.append(
                    f"{path} is of {got[0]} inputs and {got[1]} outputs and should be of {wanted[0]} and {wanted[1]}"
                )
    if strangers or differing:
        raise ValueError(
            f"the adapter in {folder} is of another base: layers that this model has not {_shown(strangers)}; "
            f"shapes that differ {_shown(differing)}; this model has {_shown(list(ours_of))}"
        )


def _sizes(layer: nn.Module) -> tuple[int, int]:
    return layer_sizes(layer.base if isinstance(layer, LoraLinear) else layer)


def _as_ours(
    updates: dict[str, Update], ours_of: Mapping[str, tuple[str, ...]], layers: Mapping[str, nn.Module]
) -> dict[str, Update]:
    """Our layer to its update."""
    ours: dict[str, Update] = {}
    for path, update in updates.items():
        mine = ours_of[path]
        parts = [update] if len(mine) == 1 else split_update(update, [_sizes(layers[one])[1] for one in mine])
        ours |= {one: part for one, part in zip(mine, parts, strict=True) if part is not None}
    return ours


@torch.no_grad()
def _make(path: str, layer: nn.Module, update: Update, config: LoraConfig) -> LoraAdapter:
    base = layer.base if isinstance(layer, LoraLinear) else layer
    alpha = alpha_of(update.scale, update.rank, config.rank_stabilized)
    one = make_adapter(path, base, config, update.rank, alpha)
    one.lora_a.copy_(update.a)
    one.lora_b.copy_(update.b)
    if update.magnitude is not None:
        one.magnitude.copy_(update.magnitude)
    return one


@torch.no_grad()
def _overwrite(name: str, present: dict[str, LoraLinear], made: dict[str, LoraAdapter]) -> None:
    own = {path: (layer.adapters[name].rank, layer.adapters[name].dora) for path, layer in present.items()}
    new = {path: (one.rank, one.dora) for path, one in made.items()}
    if own != new:
        raise ValueError(
            f"there is an adapter {name!r} already, with other layers or ranks; give this one another name, or remove "
            "that one with remove_adapter"
        )
    for path, one in made.items():
        old = present[path].adapters[name]
        old.load_state_dict(one.state_dict())
        old.alpha, old.dropout, old.rank_stabilized = one.alpha, one.dropout, one.rank_stabilized


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return (", ".join(names[:MAX_NAMES_SHOWN]) or "none") + more
