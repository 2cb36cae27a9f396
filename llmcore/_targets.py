"""Which layers of a model a name means, and how they are swapped: what adapters and quantization share."""

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence

from torch import nn

ALL_LINEAR = "all-linear"
REGEX = "re:"
HEADS = ("head", "lm_head", "embed_out", "output_projection")
MAX_NAMES_SHOWN = 12


def find_layers(
    model: nn.Module,
    targets: str | Sequence[str],
    fits: Callable[[nn.Module], bool],
    inside: Callable[[nn.Module], bool] = lambda module: False,
) -> dict[str, nn.Module]:
    """Path to layer, in the model's order, of every layer that `fits` and that a target names.

    A target's dot-separated parts are compared, as shell patterns, with the last parts of a layer's path: "q_proj" is
    every layer of that name, "attention.*" all in a module of that name, "blocks.[0-3].ffn.up_proj" four layers.
    "re:..." is a regular expression for the whole path. "all-linear" is every layer that fits but the output head.

    Layers below a module for which `inside` holds are not looked at. Every target must name something.

    Raises: ValueError when a target names nothing, listing what there is; when a layer's weight is shared with another
        module, or when the model itself is the layer.
    """
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(
            "targets must name at least one layer, got none; 'all-linear' is every linear layer but the head"
        )
    candidates = all_layers(model, fits, inside)
    found: dict[str, nn.Module] = {}
    for target in wanted:
        matched = {path: module for path, module in candidates.items() if _matches(target, path)}
        if target == ALL_LINEAR:
            shared = _shared_weights(model)
            matched = {path: module for path, module in matched.items() if _weight_id(module) not in shared}
        if not matched:
            raise ValueError(f"target {target!r} matches no linear layer; this model has {_shown(candidates)}")
        found |= matched
    if "" in found:
        raise ValueError("the model itself is the layer, and cannot be swapped in place; put it into a module first")
    shared = _shared_weights(model)
    for path, module in found.items():
        if _weight_id(module) in shared:
            others = ", ".join(sorted(shared[_weight_id(module)] - {path}))
            raise ValueError(f"{path} shares its weight with {others}; leave it out of the targets, or untie it")
    return {path: module for path, module in candidates.items() if path in found}


def all_layers(
    model: nn.Module, fits: Callable[[nn.Module], bool], inside: Callable[[nn.Module], bool] = lambda module: False
) -> dict[str, nn.Module]:
    """Path to layer of every layer that `fits`, each once, under its first path, but for those below an `inside` module."""
    hidden: set[str] = set()
    found = {}
    for path, module in model.named_modules():
        parts = path.split(".")
        if any(".".join(parts[:depth]) in hidden for depth in range(1, len(parts))) or ("" in hidden and path):
            continue
        if fits(module):
            found[path] = module
        if inside(module):
            hidden.add(path)
    return found


def _matches(target: str, path: str) -> bool:
    if target == ALL_LINEAR:
        return path.rpartition(".")[2] not in HEADS
    if target.startswith(REGEX):
        return re.fullmatch(target.removeprefix(REGEX), path) is not None
    parts, names = target.split("."), path.split(".")
    return len(parts) <= len(names) and all(
        fnmatch.fnmatchcase(name, part) for part, name in zip(parts, names[-len(parts) :])
    )


def _weight_id(module: nn.Module) -> int | None:
    weight = module._parameters.get("weight")
    return None if weight is None else id(weight)


def _shared_weights(model: nn.Module) -> dict[int, set[str]]:
    """Identity of each parameter that stands in several modules, with their paths."""
    owners: dict[int, set[str]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        if id(module) in seen:
            continue
        seen.add(id(module))
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), set()).add(path)
    return {key: paths for key, paths in owners.items() if len(paths) > 1}


def _shown(candidates: Mapping[str, nn.Module]) -> str:
    """Names of layers for people: last components with their number, since paths repeat per block."""
    counts: dict[str, int] = {}
    for path in candidates:
        counts[path.rpartition(".")[2]] = counts.get(path.rpartition(".")[2], 0) + 1
    names = [f"{name} ({count})" for name, count in counts.items()]
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    example = next(iter(candidates), None)
    return "no linear layer" if example is None else f"{', '.join(names[:MAX_NAMES_SHOWN])}{more}, such as {example!r}"


def replace_modules(model: nn.Module, replacements: Mapping[int, nn.Module]) -> None:
    """Put replacements[id(module)] wherever that module stands, so that what was shared stays shared."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and id(child) in replacements and parent is not replacements[id(child)]:
                parent._modules[name] = replacements[id(child)]
