"""Tile sizes of the Triton kernels, from a table by kernel, head width, mask, length and dtype: no first use waits for tuning.

`benchmarks/tune_flash_attention.py` measures candidates on a GPU and rewrites `kernel_table.py`; `benchmarks/cross_compile.py`
checks every row for Hopper without one. `use_tiles` sets sizes by hand, for tests and lessons. No triton is needed here.

Taught in: 08_flash_attention.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmcore.attention.kernel_table import TABLE

KERNELS = ("forward", "dkv", "dkv_grouped", "dq", "decode")
"""What has tile sizes of its own; "dkv_grouped" is "dkv" where several query heads share a key head."""
MAX_HEAD_DIM = 256
LONG_TOKENS = 2048
"""From this many keys on, rows for long texts apply."""


@dataclass(frozen=True)
class Tiles:
    """How one kernel is launched."""

    block_q: int
    """Rows of queries in a tile, a power of two of at least 16."""
    block_k: int
    """Keys in a tile, likewise."""
    warps: int = 4
    stages: int = 2
    """Tiles in flight: while one is computed, the next ones are being fetched."""
    tma: bool = False
    """Read tiles with Hopper's copy engine where the tensors allow it."""

    def __post_init__(self) -> None:
        for name, size in (("block_q", self.block_q), ("block_k", self.block_k)):
            if size < 16 or size & (size - 1):
                raise ValueError(f"{name} must be a power of two of at least 16, got {size}")
        if self.warps not in (1, 2, 4, 8, 16) or self.stages < 1:
            raise ValueError(
                f"warps must be 1, 2, 4, 8 or 16 and stages at least 1, got {self.warps} and {self.stages}"
            )


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is at least `number`.

    >>> [next_power_of_2(n) for n in (1, 16, 17)]
    [1, 16, 32]
    """
    return 1 << max(number - 1, 0).bit_length()


def block_width(head_dim: int) -> int:
    """The power of two, at least 16, that holds a head.

    >>> [block_width(d) for d in (8, 64, 80, 192)]
    [16, 64, 128, 256]
    """
    return max(16, next_power_of_2(head_dim))


Key = tuple[str, int, str, str, str, str]


def table_key(kernel: str, head_dim: int, causal: bool, n_keys: int, item_bytes: int, tma: bool) -> Key:
    """The row of the table that a request falls in.

    >>> table_key("forward", 80, True, 4096, 2, tma=True)
    ('forward', 128, 'causal', 'long', 'half', 'tma')
    """
    return (
        kernel,
        block_width(head_dim),
        "causal" if causal else "full",
        "long" if n_keys >= LONG_TOKENS else "short",
        "half" if item_bytes == 2 else "float32",
        "tma" if tma and item_bytes == 2 else "pointers",
    )


def look_up(key: Key) -> Tiles:
    """The most particular row that fits: "any" in the table stands for either mask or either length."""
    kernel, width, mask, length, dtype, engine = key
    for mask_or_any, length_or_any in ((mask, length), (mask, "any"), ("any", length), ("any", "any")):
        values = TABLE.get((kernel, width, mask_or_any, length_or_any, dtype, engine))
        if values is not None:
            return Tiles(*values, tma=engine == "tma")
    if kernel == "dkv_grouped":
        return look_up(("dkv", *key[1:]))
    return look_up((*key[:5], "pointers"))


_override: dict[str, Tiles] = {}


@contextlib.contextmanager
def use_tiles(tiles: Tiles | None = None, **by_kernel: Tiles) -> Iterator[None]:
    """Within it, kernels are launched with these sizes: one for all, or one by name, see KERNELS; None leaves the table's.

    Raises: ValueError for a kernel that does not exist.
    """
    unknown = by_kernel.keys() - set(KERNELS)
    if unknown:
        raise ValueError(f"kernel names are {', '.join(KERNELS)}, got {', '.join(sorted(unknown))}")
    before = dict(_override)
    _override.update({name: tiles for name in KERNELS if tiles is not None} | by_kernel)
    try:
        yield
    finally:
        _override.clear()
        _override.update(before)


def choose_tiles(kernel: str, head_dim: int, causal: bool, n_keys: int, item_bytes: int, tma: bool) -> Tiles:
    """The tile sizes for a request: those set by `use_tiles`, else the table's."""
    return _override.get(kernel) or look_up(table_key(kernel, head_dim, causal, n_keys, item_bytes, tma))


def no_larger_than(tiles: Tiles, n_queries: int, n_keys: int) -> Tiles:
    """`tiles` cut to what a text of this many tokens needs.

    >>> no_larger_than(Tiles(128, 64), n_queries=20, n_keys=200).block_q
    32
    """
    return replace(
        tiles,
        block_q=min(tiles.block_q, max(16, next_power_of_2(n_queries))),
        block_k=min(tiles.block_k, max(16, next_power_of_2(n_keys))),
    )


def smaller(tiles: Tiles) -> Iterator[Tiles]:
    """`tiles`, then ever more modest ones, for devices with less fast memory than the table was made for."""
    yield tiles
    while tiles.stages > 1 or max(tiles.block_q, tiles.block_k) > 16:
        if tiles.stages > 1:
            tiles = replace(tiles, stages=tiles.stages - 1)
        elif tiles.block_q >= tiles.block_k:
            tiles = replace(tiles, block_q=tiles.block_q // 2, warps=min(tiles.warps, 4))
        else:
            tiles = replace(tiles, block_k=tiles.block_k // 2, warps=min(tiles.warps, 4))
        yield tiles


def overridden(kernel: str) -> bool:
    """Whether `use_tiles` has set this kernel's sizes."""
    return kernel in _override
