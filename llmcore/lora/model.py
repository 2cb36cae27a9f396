"""Adapters of a whole model: put in, switched, disabled, merged, taken out.

Whatever is refused leaves the model as it was: everything is checked before the first layer changes.

Taught in: 06_lora.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llmcore._targets import find_layers, replace_modules
from llmcore.lora.bases import is_adaptable
from llmcore.lora.config import LoraConfig
from llmcore.lora.layers import DEFAULT, LoraAdapter, LoraLinear


def inject(
    model: nn.Module,
    targets: LoraConfig | str | Sequence[str] = LoraConfig.targets,
    r: int | None = None,
    alpha: int | float | None = None,
    *,
    adapter: str = DEFAULT,
    generator: torch.Generator | None = None,
    **options: Any,
) -> int:
    """Add an adapter to every linear layer that a target names, freeze all else; the number of trainable parameters.

    `targets` are names, or a whole `LoraConfig`; `options` are LoraConfig's other fields (dropout, rank_stabilized, dora).
    r is 8 and alpha 16 when left out. A target's dot-separated parts are compared, as shell patterns, with the last
    parts of a layer's path: "q_proj" is every layer of that name (and no "kq_proj"), "attention.*" every layer in a module of
    that name, "blocks.[0-3].ffn.up_proj" four layers. "re:..." is a regular expression for the whole path, and
    "all-linear" every linear layer but the output head.

    torch's Linear, llmcore's quantized layers and transformers' Conv1D (GPT-2) take adapters. A second adapter goes beside
    the first under another name, and then acts alone; see `set_adapter`. A layer that stands in several places has one adapter.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> inject(model, ["0"], r=2, alpha=4)
    14

    Raises: ValueError, the model untouched, when a target matches nothing (listing what there is), a layer's weight is
        shared, the rank exceeds a layer's size, or there is an adapter of that name; RuntimeError while adapters are merged.
    Source: LoRA, arXiv:2106.09685.  Taught in: 06_lora.
    """
    config = _config(targets, r, alpha, options)
    _check_new_name(model, adapter)
    found = find_adaptable(model, config.targets)
    made = {}
    for path, layer in found.items():
        base = layer.base if isinstance(layer, LoraLinear) else layer
        made[path] = make_adapter(path, base, config, generator=generator)
    add_adapters(model, adapter, {path: (found[path], one) for path, one in made.items()})
    set_adapter(model, adapter)
    return sum(parameter.numel() for one in made.values() for parameter in one.parameters())


def _config(targets: Any, r: int | None, alpha: int | float | None, options: dict[str, Any]) -> LoraConfig:
    given = {name: value for name, value in (("rank", r), ("alpha", alpha)) if value is not None} | options
    if isinstance(targets, LoraConfig):
        return replace(targets, **given)
    return LoraConfig(targets=targets if isinstance(targets, str) else tuple(targets), **given)


def _check_new_name(model: nn.Module, adapter: str) -> None:
    if not adapter or "." in adapter:
        raise ValueError(f"an adapter's name must be a word without dots, got {adapter!r}")
    layers = lora_layers(model)
    check_unmerged(layers)
    if any(adapter in layer.adapters for layer in layers.values()):
        raise ValueError(
            f"there is an adapter {adapter!r} already; give this one another name, or remove that one with remove_adapter"
        )


def find_adaptable(model: nn.Module, targets: str | Sequence[str]) -> dict[str, nn.Module]:
    """Path to layer of what the targets name: plain layers, and those that carry adapters already."""
    return find_layers(
        model, targets,
        fits=lambda module: isinstance(module, LoraLinear) or is_adaptable(module),
        inside=lambda module: isinstance(module, LoraLinear),
    )  # fmt: skip


def make_adapter(
    path: str,
    base: nn.Module,
    config: LoraConfig,
    rank: int | None = None,
    alpha: int | float | None = None,
    generator: torch.Generator | None = None,
) -> LoraAdapter:
    """The config's adapter for this layer; errors name the path."""
    rank, alpha = rank or config.rank, config.alpha if alpha is None else alpha
    options = (rank, alpha, config.dropout, config.rank_stabilized, config.dora)
    try:
        return LoraAdapter(base, *options, generator=generator)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def add_adapters(model: nn.Module, name: str, made: dict[str, tuple[nn.Module, LoraAdapter]]) -> None:
    """Put each adapter on its layer, wrapping layers that carried none."""
    wrappers = {}
    for layer, one in made.values():
        if not isinstance(layer, LoraLinear):
            wrappers[id(layer)] = layer = LoraLinear(layer)
        one.train(layer.training)
        layer.adapters[name] = one
    replace_modules(model, wrappers)


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Path to layer of all that carry adapters."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLinear)}


def adapter_names(model: nn.Module) -> list[str]:
    """Names of all adapters, in the order in which they came."""
    return list(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.adapters))


def active_adapters(model: nn.Module) -> list[str]:
    """Names of the adapters that act."""
    return list(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.active))


def set_adapter(model: nn.Module, *names: str, trainable: bool = True) -> None:
    """Let these adapters act and no others (none: the base alone); of all the model, they alone learn, if `trainable`.

    Several LoRA adapters add up. A DoRA adapter acts alone.

    Raises: ValueError for a name that there is not, or DoRA beside another; RuntimeError while adapters are merged.
    """
    layers = lora_layers(model)
    known = adapter_names(model)
    for name in names:
        if name not in known:
            raise ValueError(f"there is no adapter {name!r}; there are {', '.join(known) or 'none'}")
    check_unmerged(layers)
    for layer in layers.values():
        layer.check_together(tuple(name for name in names if name in layer.adapters))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in layers.values():
        layer.set_active(names)
        for name in layer.active:
            layer.adapters[name].requires_grad_(trainable)


def check_unmerged(layers: dict[str, LoraLinear]) -> None:
    """Raise RuntimeError when a layer is merged."""
    merged = [path for path, layer in layers.items() if layer.merged is not None]
    if merged:
        raise RuntimeError(
            f"adapters are merged into {len(merged)} layers, such as {merged[0]}; unmerge the model first"
        )


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[nn.Module]:
    """The model without its updates while the context lasts, for a reference that costs no second copy of the weights.

    Raises: RuntimeError while adapters are merged.
    """
    layers = _need_layers(model)
    check_unmerged(layers)
    before = {path: layer.active for path, layer in layers.items()}
    for layer in layers.values():
        layer.active = ()
    try:
        yield model
    finally:
        for path, layer in layers.items():
            layer.active = before[path]


def merge(model: nn.Module, *, keep_base: bool = False) -> None:
    """Write the active adapters' updates into the weights, in float32; the model then costs what its base costs.

    Into bfloat16 or 4-bit weights part of an update is lost by rounding: see `merging_errors`. `keep_base` keeps a copy of
    the float weights, so that `unmerge` restores every bit; of quantized weights and under DoRA a copy is always kept.

    Raises: RuntimeError when merged already; ValueError when there are no adapters or an update is not finite. The model is
        then as it was.
    Source: LoRA, arXiv:2106.09685, section 4.1.  Taught in: 06_lora.
    """
    layers = _need_layers(model)
    check_unmerged(layers)
    for path, layer in layers.items():
        for name in layer.active:
            if not all(parameter.isfinite().all() for parameter in layer.adapters[name].parameters()):
                raise ValueError(f"adapter {name!r} of {path} is not finite; nothing was merged, load an earlier one")
    done = []
    try:
        for layer in layers.values():
            layer.merge(keep_base=keep_base)
            done.append(layer)
    except ValueError:
        for layer in done:
            layer.unmerge()
        raise


def unmerge(model: nn.Module) -> None:
    """Take the updates out of the weights again; up to rounding where no copy of them was kept.

    Raises: RuntimeError when the model is not merged; ValueError when there are no adapters.
    """
    layers = _need_layers(model)
    plain = [path for path, layer in layers.items() if layer.merged is None]
    if plain:
        raise RuntimeError(f"{len(plain)} layers are not merged, such as {plain[0]}; there is nothing to take out")
    for layer in layers.values():
        layer.unmerge()


def merging_errors(model: nn.Module) -> dict[str, float]:
    """Layer to the share of its update that `merge` would lose by rounding: |stored - exact| / |update|.

    Raises: RuntimeError when the model is merged; ValueError when there are no adapters.
    Taught in: 06_lora.
    """
    layers = _need_layers(model)
    check_unmerged(layers)
    return {path: layer.merging_error() for path, layer in layers.items()}


def unload(model: nn.Module) -> nn.Module:
    """The model with its own layers in place again and every adapter gone; merged updates stay in the weights.

    So `merge(model); unload(model)` gives a plain model that holds the update. Its weights stay frozen.

    Raises: ValueError when there are no adapters.
    """
    layers = _need_layers(model)
    replace_modules(model, {id(layer): layer.base for layer in layers.values()})
    return model


def remove_adapter(model: nn.Module, name: str) -> None:
    """Delete one adapter; layers that carry none after it are the plain ones again.

    Raises: ValueError when there is no such adapter; RuntimeError while adapters are merged.
    """
    layers = lora_layers(model)
    check_unmerged(layers)
    if name not in adapter_names(model):
        raise ValueError(f"there is no adapter {name!r}; there are {', '.join(adapter_names(model)) or 'none'}")
    for layer in layers.values():
        layer.active = tuple(one for one in layer.active if one != name)
        if name in layer.adapters:
            del layer.adapters[name]
    replace_modules(model, {id(layer): layer.base for layer in layers.values() if not layer.adapters})


def lora_state_dict(model: nn.Module, adapter: str | None = None) -> dict[str, Tensor]:
    """The adapters' tensors and nothing else, by their names in `model.state_dict()`; of one adapter, or of all.

    Raises: ValueError when there is no such adapter.
    """
    layers = _need_layers(model)
    names = adapter_names(model) if adapter is None else [adapter]
    if not set(names) <= set(adapter_names(model)):
        raise ValueError(f"there is no adapter {adapter!r}; there are {', '.join(adapter_names(model))}")
    return {
        f"{path}.adapters.{name}.{leaf}": tensor
        for path, layer in layers.items()
        for name in names
        if name in layer.adapters
        for leaf, tensor in layer.adapters[name].state_dict().items()
    }


def _need_layers(model: nn.Module) -> dict[str, LoraLinear]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("this model carries no adapter; add one with inject or load_adapter")
    return layers
