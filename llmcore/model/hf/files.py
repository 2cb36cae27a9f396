"""Safetensors folders: one model.safetensors, or shards with an index that says which tensor is in which file."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def find_files(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it.

    Raises: FileNotFoundError when the folder, its weights, or a shard named in the index is not there.
    """
    if (folder / INDEX).is_file():
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        missing = sorted({name for name in weight_map.values() if not (folder / name).is_file()})
        if missing:
            raise FileNotFoundError(
                f"{folder / INDEX} names shards that are not there: {', '.join(missing)}; copy them too"
            )
        return {name: folder / file for name, file in weight_map.items()}
    if (folder / SINGLE).is_file():
        with _open(folder / SINGLE) as file:
            return dict.fromkeys(file.keys(), folder / SINGLE)
    other = sorted(path.name for path in folder.glob("*.bin")) or sorted(path.name for path in folder.iterdir())[:5]
    raise FileNotFoundError(
        f"{folder} must hold {SINGLE} or {INDEX}, found {', '.join(other) or 'nothing'}; "
        "convert other weights to safetensors with transformers' save_pretrained"
    )


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); copy it again") from None


class TensorReader:
    """Reads single tensors of a folder, keeping each file open once. Use as a context manager."""

    def __init__(self, where: dict[str, Path], prefix: str = "") -> None:
        """`prefix` is what the names asked for have in front and the files' names lack."""
        self.where = where
        self.prefix = prefix
        self._open_files: dict[Path, object] = {}

    def __enter__(self) -> "TensorReader":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open_files.values():
            file.__exit__(None, None, None)

    def read(self, name: str) -> Tensor:
        """The tensor of that name."""
        stored = name if name in self.where else name.removeprefix(self.prefix)
        path = self.where[stored]
        if path not in self._open_files:
            self._open_files[path] = _open(path).__enter__()
        return self._open_files[path].get_tensor(stored)


def write_files(folder: Path, tensors: Iterator[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    """Write the tensors, in shards of at most max_shard_bytes each (a larger tensor has a shard to itself).

    Files are written under a temporary name and renamed, and weights of an earlier save are removed last, so an
    interrupted save never leaves a folder that looks whole.
    """
    shards = _shards(tensors, max_shard_bytes)
    parts: list[Path] = []
    names_by_shard: list[list[str]] = []
    total_bytes = 0
    for number, shard in enumerate(shards):
        part = folder / f"shard-{number}.partial"
        save_file(shard, part, metadata={"format": "pt"})
        parts.append(part)
        names_by_shard.append(list(shard))
        total_bytes += sum(tensor.nbytes for tensor in shard.values())
    for stale in [*folder.glob("model-*-of-*.safetensors"), folder / INDEX, folder / SINGLE]:
        stale.unlink(missing_ok=True)
    if len(parts) == 1:
        parts[0].rename(folder / SINGLE)
        return
    weight_map = {}
    for number, (part, names) in enumerate(zip(parts, names_by_shard, strict=True), start=1):
        final = folder / f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        part.rename(final)
        weight_map |= dict.fromkeys(names, final.name)
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(tensors: Iterator[tuple[str, Tensor]], max_shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
        size += tensor.nbytes
    yield shard
