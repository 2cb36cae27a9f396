"""Measuring a piece of torch code: its traffic, the numbers its operators make, bytes alive at once, FLOPs, time.

Counts are exact and the same on every machine; `seconds_of` is not.

Taught in: 08_flash_attention.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class SlowMemory:
    """Named matrices that can only be loaded and stored, and a count of the values that were: `moved["load Q"]`.

    >>> memory = SlowMemory(Q=torch.ones(6, 4))
    >>> tile = memory.load("Q", slice(0, 2))
    >>> memory.store("Q", 2 * tile, slice(0, 2))
    >>> dict(memory.moved), memory.total
    ({'load Q': 8, 'store Q': 8}, 16)
    """

    def __init__(self, **matrices: torch.Tensor) -> None:
        self.matrices = matrices
        self.moved: Counter[str] = Counter()

    def load(self, name: str, rows: slice = slice(None)) -> torch.Tensor:
        """A copy of these rows."""
        tile = self.matrices[name][rows].clone()
        self.moved[f"load {name}"] += tile.numel()
        return tile

    def store(self, name: str, tile: torch.Tensor, rows: slice = slice(None)) -> None:
        """Writes these rows."""
        self.matrices[name][rows] = tile
        self.moved[f"store {name}"] += tile.numel()

    @property
    def total(self) -> int:
        """Values loaded and stored so far."""
        return sum(self.moved.values())


def blocks(n: int, size: int) -> list[slice]:
    """Slices of `size` that cover 0 .. n; the last may be shorter.

    >>> blocks(5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


class Meter(TorchDispatchMode):
    """Within it every operator is counted, those of a backward pass too.

    >>> with Meter() as meter:
    ...     x = torch.ones(10, dtype=torch.float32) * 2
    >>> meter.made["mul"], meter.peak_bytes
    (10, 80)
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: Counter[str] = Counter()
        """Numbers made, by operator: "mul", "div", "exp", "mm"; an in-place operator counts as its plain form."""
        self.peak_bytes = 0
        """The most bytes alive at once, of storages that an operator made or that it gave a view of; views count once."""
        self._alive: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.made[function.overloadpacket.__name__.rstrip("_")] += tensor.numel()
                storage = tensor.untyped_storage()
                self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        self.peak_bytes = max(self.peak_bytes, sum(self._alive.values()))
        return result


def flops_of(work: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """FLOPs of the matrix products in `work(*args, **kwargs)`, and in a backward pass that it makes.

    >>> flops_of(torch.matmul, torch.ones(2, 3), torch.ones(3, 4))
    48
    """
    with FlopCounterMode(display=False) as counter:
        work(*args, **kwargs)
    return counter.get_total_flops()


def seconds_of(work: Callable[..., Any], *args: Any, repeats: int = 5, **kwargs: Any) -> float:
    """The least wall-clock time of `repeats` calls after one to warm up; waits for a GPU to finish."""

    def run() -> None:
        work(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
