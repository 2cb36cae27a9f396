"""Attention: one call, several ways to compute it.

- `reference`: the formula, T x S scores and all; what the lesson teaches and the others are tested against
- `tiled`: blockwise with an online softmax; never holds T x S; forward and hand-written backward
- `dispatch`: checks a request and picks a backend; `prefer` changes what `auto` picks
- `kernels`: flash attention in Triton, loaded only when asked for
- `masks`, `cache`: who may attend to whom, and keys and values kept while decoding

Taught in: 02_attention_scaling (formula, masks, cache) and 08_flash_attention (tiles).
"""

from llmcore.attention.cache import KVCache
from llmcore.attention.dispatch import BACKENDS, attention, flash_attention, prefer
from llmcore.attention.masks import (
    causal_mask,
    packed_mask,
    padding_mask,
    prefix_mask,
    sliding_window_mask,
    visible_mask,
)
from llmcore.attention.reference import attention_weights, softmax

__all__ = [
    "BACKENDS",
    "KVCache",
    "attention",
    "attention_weights",
    "causal_mask",
    "flash_attention",
    "packed_mask",
    "padding_mask",
    "prefer",
    "prefix_mask",
    "sliding_window_mask",
    "softmax",
    "visible_mask",
]
