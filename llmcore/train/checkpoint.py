"""Checkpoints: everything a run needs to go on as if it had never stopped.

A checkpoint is a folder. `meta.json` names the other files with their SHA-256; it and they are written into a folder with a
temporary name that is renamed when all of it is on disk, so a folder under its own name is a whole checkpoint, and one that was
damaged later is noticed. "Plain" checkpoints hold whole tensors; "sharded" ones (FSDP2) hold each rank's share, written by
torch.distributed.checkpoint. Either kind can be read back on any number of devices.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

META = "meta.json"
FORMAT = 1
WRITING, REPLACED = ".writing", ".replaced"


@dataclass(frozen=True)
class Checkpoint:
    """What `load_checkpoint` read, besides what it put into model and optimizer."""

    path: Path
    """The folder."""
    step: int
    """Optimizer steps done."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else was saved: data position, loss scale, ..."""
    model_config: dict[str, Any] | None = None
    """`ModelConfig.to_dict()` of the model, where it had one."""


def save_checkpoint(
    model: nn.Module,
    optimizer: Optimizer | None,
    step: int,
    path: str | os.PathLike[str],
    *,
    extra: dict[str, Any] | None = None,
    sharded: bool = False,
) -> Path:
    """Write model, optimizer, step and extra as one checkpoint folder; until it is complete, nothing under `path` changes.

    `extra` may hold tensors, numbers, strings, lists and dicts of them. Where torch.distributed runs, every rank calls this; rank 0
    writes a plain checkpoint, each rank its share of a sharded one.

    Raises: OSError naming the path when it cannot be written (full disk, no permission); what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{WRITING}")
    config = getattr(model, "config", None)
    meta = {
        "format": FORMAT,
        "step": int(step),
        "sharded": sharded,
        "torch": str(torch.__version__),
        "model_config": config.to_dict() if hasattr(config, "to_dict") else None,
    }

    def start() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()

    def write_plain() -> None:
        _write(temporary / "model.pt", model.state_dict())
        if optimizer is not None:
            _write(temporary / "optimizer.pt", _named_optimizer_state(model, optimizer))

    def finish() -> None:
        _write(temporary / "extra.pt", extra or {})
        files = sorted(file for file in temporary.iterdir() if file.name != META)
        meta["files"] = {file.name: _sha256(file) for file in files}
        with open(temporary / META, "w", encoding="utf-8") as file:
            json.dump(meta, file, indent=1)
            _sync(file)
        _put_in_place(temporary, path)

    try:
        _on_first_rank(start)
        if sharded:
            _on_every_rank(lambda: _write_shards(temporary, model, optimizer))
        else:
            _on_first_rank(write_plain)
        _on_first_rank(finish)
    except OSError as error:
        if _rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"cannot write checkpoint {str(path)!r}: {reason}; what was there before is untouched"
        ) from error
    return path


def load_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Checkpoint:
    """Put a checkpoint's tensors into model and optimizer, both in place, and return the rest of it.

    Raises: FileNotFoundError; ValueError for a damaged checkpoint (naming the file that is, and the newest whole checkpoint beside it),
        and for one of another architecture (naming missing and unexpected tensors and shapes that differ).
    """
    path = Path(path)
    meta = verify_checkpoint(path)
    if meta["sharded"]:
        if model is not None:
            _read_shards(path, model, optimizer)
    else:
        if model is not None:
            _load_model(path, model, _read(path / "model.pt", device))
        if optimizer is not None:
            if not (path / "optimizer.pt").exists():
                raise ValueError(f"checkpoint {str(path)!r} holds no optimizer; load it with optimizer=None")
            saved = _read(path / "optimizer.pt", device)
            if model is not None and _is_sharded(model):
                _spread_optimizer(model, optimizer, saved)
            else:
                _load_optimizer(path, model, optimizer, saved)
    return Checkpoint(path, meta["step"], _read(path / "extra.pt", "cpu"), meta["model_config"])


def verify_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a whole checkpoint.

    Raises: FileNotFoundError; ValueError for a damaged one, with the newest whole checkpoint beside it.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint {str(path)!r}; checkpoints are folders that hold {META}")
    damage = _damage(path)
    if damage is not None:
        others = [
            other for other in reversed(list_checkpoints(path.parent)) if other != path and _damage(other) is None
        ]
        offer = (
            f"the last good one is {str(others[0])!r}: resume from that"
            if others
            else "there is no other one beside it"
        )
        raise ValueError(f"checkpoint {str(path)!r} is damaged: {damage}; {offer}")
    return json.loads((path / META).read_text(encoding="utf-8"))


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, None when nothing is."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        files = meta["files"]
        if meta["format"] != FORMAT:
            return f"{META} has format {meta['format']}, this version reads {FORMAT}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{META} is missing or unreadable"
    for name, digest in files.items():
        try:
            if _sha256(path / name) != digest:
                return f"{name} does not match its checksum"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def step_path(folder: str | os.PathLike[str], step: int) -> Path:
    """Where the trainer keeps the checkpoint of a step.

    >>> step_path("run/checkpoints", 20).name
    'step_00000020'
    """
    return Path(folder) / f"step_{step:08d}"


def list_checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a folder that are complete, oldest first; whether they are undamaged is not looked at."""
    folder = Path(folder)
    found = [path for path in folder.glob("step_*") if (path / META).is_file()] if folder.is_dir() else []
    return sorted(found, key=lambda path: path.name)


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path | None:
    """The newest complete checkpoint of a folder, None when there is none."""
    return (list_checkpoints(folder) or [None])[-1]


def remove_leftovers(folder: str | os.PathLike[str], keep: int) -> None:
    """Delete half-written checkpoints, and all but the newest `keep`."""
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith((WRITING, REPLACED)):
            shutil.rmtree(path, ignore_errors=True)
    for path in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def set_aside(folder: str | os.PathLike[str], after_step: int) -> None:
    """Move checkpoints of later steps to a folder FOLDER.abandoned, where they are neither the newest nor counted.

    A run that begins before them would otherwise end in a folder whose newest checkpoints are another run's.
    """
    folder = Path(folder)
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix("step_")) > after_step:
            away = folder.with_name(f"{folder.name}.abandoned") / path.name
            away.parent.mkdir(exist_ok=True)
            shutil.rmtree(away, ignore_errors=True)
            path.rename(away)


def _write(path: Path, content: Any) -> None:
    with open(path, "wb") as file:
        torch.save(content, file)
        _sync(file)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(path: Path, device: torch.device | str) -> Any:
    return torch.load(path, map_location=device, weights_only=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put_in_place(temporary: Path, path: Path) -> None:
    old = path.with_name(f".{path.name}{REPLACED}")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(temporary, path)
    shutil.rmtree(old, ignore_errors=True)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _load_model(path: Path, model: nn.Module, state: dict[str, Any]) -> None:
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    differing = [
        f"{name} is {tuple(state[name].shape)} and should be {tuple(own[name].shape)}"
        for name in own
        if name in state and hasattr(own[name], "shape") and own[name].shape != state[name].shape
    ]
    if missing or unexpected or differing:
        parts = [
            f"missing {_some(missing)}" if missing else "",
            f"unexpected {_some(unexpected)}" if unexpected else "",
            _some(differing) if differing else "",
        ]
        raise ValueError(
            f"checkpoint {str(path)!r} is of another architecture: {'; '.join(filter(None, parts))}; build the model it was saved from"
        )
    if _is_sharded(model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        set_model_state_dict(model, state, options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(state)


def _is_sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _named_optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's own state dict, and the names of the parameters that it numbers."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ordered = [names.get(id(parameter), "") for group in optimizer.param_groups for parameter in group["params"]]
    return {"state": optimizer.state_dict(), "names": ordered}


def _load_optimizer(path: Path, model: nn.Module | None, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    if model is not None:
        own = _named_optimizer_state(model, optimizer)["names"]
        if own != saved["names"]:
            differing = sorted(set(own) ^ set(saved["names"]))
            raise ValueError(
                f"the optimizer in checkpoint {str(path)!r} groups its parameters otherwise"
                + (f" ({_some(differing)})" if differing else "")
                + "; use the same kind of optimizer, or load with optimizer=None"
            )
    optimizer.load_state_dict(saved["state"])


def _spread_optimizer(model: nn.Module, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Give each process its share of an optimizer state that holds whole tensors."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    names, state = saved["names"], saved["state"]
    named = {
        "state": {names[index]: values for index, values in state["state"].items()},
        "param_groups": [
            {**group, "params": [names[index] for index in group["params"]]} for group in state["param_groups"]
        ],
    }
    set_optimizer_state_dict(model, optimizer, named, options=StateDictOptions(full_state_dict=True))


def _write_shards(folder: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(_sharded_state(model, optimizer), checkpoint_id=folder)


def _read_shards(path: Path, model: nn.Module, optimizer: Optimizer | None) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import set_model_state_dict, set_optimizer_state_dict

    state = _sharded_state(model, optimizer)
    try:
        dcp.load(state, checkpoint_id=path)
    except (dcp.CheckpointException, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"checkpoint {str(path)!r} does not fit this model or optimizer: {error}; build the ones it was saved from"
        ) from error
    set_model_state_dict(model, state["model"])
    if optimizer is not None:
        set_optimizer_state_dict(model, optimizer, state["optimizer"])


def _sharded_state(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    state = {"model": get_model_state_dict(model)}
    if optimizer is not None:
        state["optimizer"] = get_optimizer_state_dict(model, optimizer)
    return state


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _on_first_rank(action: Callable[[], None]) -> None:
    """Run it on rank 0; every rank raises the OSError that it raised there."""
    _on_every_rank(action if _rank() == 0 else lambda: None)


def _on_every_rank(action: Callable[[], None]) -> None:
    """Run it on all ranks, then let every rank raise if one failed to write."""
    failure: tuple[int, str] | None = None
    try:
        action()
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "writ" not in str(error):
            raise
        failure = (getattr(error, "errno", None) or errno.EIO, getattr(error, "strerror", None) or str(error))
    failures = [failure]
    if _world() > 1:
        failures = [None] * _world()
        dist.all_gather_object(failures, failure)
    for one in failures:
        if one is not None:
            raise OSError(*one)
