"""Keys and values kept while decoding, so that each new token costs one query instead of the whole text again.

One object holds all layers. It grows as needed, or is preallocated for `max_length` tokens; with a window a layer keeps only
what later queries can still see. `append` returns views: nothing is copied except when a buffer must grow or a window
moves on, which costs a constant per token on average. For inference only: no gradients flow through it.

Taught in: 02_attention_scaling.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_FIRST_CAPACITY = 64


class KVCache:
    """The cache of a model with `n_layers` layers.

    `window` (tokens strictly before the query, as in `attention`) is one for all layers or one a layer, None for full
    attention. Positions run on however many tokens were dropped: `length` counts all tokens seen.

    >>> cache = KVCache(n_layers=1)
    >>> k, v = cache.append(0, torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, 4))
    >>> k, v = cache.append(0, torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4))
    >>> k.shape, cache.length
    (torch.Size([1, 2, 6, 4]), 6)

    Raises: ValueError for fewer than one layer, a negative window, or a max_length below 1.
    """

    def __init__(
        self, n_layers: int, *, max_length: int | None = None, window: int | Sequence[int | None] | None = None
    ) -> None:
        windows = [window] * n_layers if window is None or isinstance(window, int) else list(window)
        if n_layers < 1 or len(windows) != n_layers:
            raise ValueError(
                f"a cache needs one window for each of at least 1 layer, got {len(windows)} for {n_layers}"
            )
        if any(size is not None and size < 0 for size in windows):
            raise ValueError(f"windows must be at least 0 tokens, got {windows}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1 token, got {max_length}; leave it out to grow as needed")
        self.max_length = max_length
        self._layers = [_LayerCache(size, max_length) for size in windows]

    def append(
        self, layer: int, k: Float[Tensor, "B K T D"], v: Float[Tensor, "B K T Dv"]
    ) -> tuple[Float[Tensor, "B K S D"], Float[Tensor, "B K S Dv"]]:
        """Views of the keys and values that the T new queries may see, the new ones last.

        With a window these are the last window + T tokens at most. Views hold until the next call that changes the cache.

        Raises: ValueError when tensors need gradients, do not fit those before, or exceed max_length.
        """
        return self._layers[layer].append(k, v)

    @property
    def length(self) -> int:
        """Tokens that all layers have seen: the position of the next token."""
        return self._layers[-1].seen

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values that later queries can see, unused capacity aside."""
        return sum(layer.nbytes for layer in self._layers)

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the buffers, unused capacity included."""
        return sum(buffer.nbytes for layer in self._layers for buffer in layer.buffers)

    def reset(self) -> None:
        """Forget all tokens and keep the buffers for the next text."""
        for layer in self._layers:
            layer.start = layer.end = layer.seen = 0

    def truncate(self, length: int) -> None:
        """Forget the tokens from position `length` on, as after a rejected draft.

        Raises: ValueError when length is not in 0..`length`, or a window has dropped what queries there would see.
        """
        for layer in self._layers:
            layer.check_truncate(length)
        for layer in self._layers:
            layer.end -= layer.seen - length
            layer.seen = length

    def reorder(self, rows: Int[Tensor, "n"]) -> None:
        """Make row i what row `rows[i]` was, as beam search does; rows may repeat, or be more or fewer than before."""
        for layer in self._layers:
            layer.buffers = [buffer.index_select(0, rows.to(buffer.device)) for buffer in layer.buffers]


class _LayerCache:
    """One layer: a key and a value buffer of which the slots start..end are in use."""

    def __init__(self, window: int | None, max_length: int | None) -> None:
        self.window, self.max_length = window, max_length
        self.buffers: list[Tensor] = []
        self.start = self.end = self.seen = 0

    @property
    def nbytes(self) -> int:
        held = self.end - self.start
        if self.window is not None:
            held = min(held, self.window)
        return sum(buffer[:, :, :held].numel() * buffer.element_size() for buffer in self.buffers)

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self._check(k, v)
        added = k.shape[2]
        if self.window is not None:
            self.start = max(self.start, self.end - self.window)
        self._make_room(k, v, added)
        for buffer, new in zip(self.buffers, (k, v)):
            buffer[:, :, self.end : self.end + added] = new
        self.end += added
        self.seen += added
        keys, values = (buffer[:, :, self.start : self.end] for buffer in self.buffers)
        return keys, values

    def _make_room(self, k: Tensor, v: Tensor, added: int) -> None:
        """Move the kept tokens to the front when the end is reached; take another buffer when this one is too small, or
        was made for a long prompt of which a short window is left."""
        held = self.end - self.start
        capacity = self.buffers[0].shape[2] if self.buffers else 0
        oversized = self.window is not None and capacity > 8 * (self.window + added + 1)
        if self.buffers and self.end + added <= capacity and not oversized:
            return
        movable = held + added <= capacity and self.start >= held and not oversized
        target = self.buffers if movable else self._allocate(k, v, held + added)
        for old, new in zip(self.buffers, target):
            new[:, :, :held] = old[:, :, self.start : self.end]
        self.buffers, self.start, self.end = target, 0, held

    def _allocate(self, k: Tensor, v: Tensor, needed: int) -> list[Tensor]:
        if self.window is not None:
            slots = max(needed, 2 * self.window + 1) + self.window
        elif self.max_length is not None:
            slots = self.max_length
        else:
            slots = max(_FIRST_CAPACITY, needed + needed // 2)
        slots = slots if self.max_length is None else max(needed, min(slots, self.max_length))
        return [new.new_empty(*new.shape[:2], slots, new.shape[3]) for new in (k, v)]

    def _check(self, k: Tensor, v: Tensor) -> None:
        if torch.is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise ValueError("a KV cache holds no gradients; decode under torch.no_grad() or torch.inference_mode()")
        if k.shape[:3] != v.shape[:3] or k.ndim != 4:
            raise ValueError(
                f"k and v must be (B, K, T, D) with the same B, K, T, got {tuple(k.shape)}, {tuple(v.shape)}"
            )
        for name, new, buffer in zip("kv", (k, v), self.buffers):
            fits = new.shape[:2] == buffer.shape[:2] and new.shape[3] == buffer.shape[3]
            if not fits or new.dtype != buffer.dtype or new.device != buffer.device:
                raise ValueError(
                    f"{name} must fit the cached (B, K, any, D) = {tuple(buffer.shape)} of {buffer.dtype} on "
                    f"{buffer.device}, got {tuple(new.shape)} of {new.dtype} on {new.device}; use a cache per batch"
                )
        if self.max_length is not None and self.seen + k.shape[2] > self.max_length:
            raise ValueError(
                f"the cache holds {self.max_length} tokens, got {self.seen + k.shape[2]}; make it with a larger max_length"
            )

    def check_truncate(self, length: int) -> None:
        if not 0 <= length <= self.seen:
            raise ValueError(f"length must be in 0..{self.seen}, the tokens seen, got {length}")
        dropped = self.seen - (self.end - self.start)
        oldest = 0 if self.window is None else max(0, length - self.window)
        if oldest < dropped:
            raise ValueError(
                f"the window has dropped the tokens before {dropped}, got length {length}; decode again instead"
            )
