"""Boolean masks, True = may attend. Query i of T stands at position i + S - T among S keys (aligned at the bottom right).

Taught in: 02_attention_scaling.
"""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def visible_mask(
    t_q: int,
    t_k: int,
    *,
    causal: bool = False,
    window: int | None = None,
    device: torch.device | str | None = None,
) -> Bool[Tensor, "T S"]:
    """The pairs that `causal` and `window` leave visible; the two are independent limits, one to each side.

    `causal` hides keys after the query; `window` hides keys more than `window` tokens before it.

    >>> visible_mask(2, 3, causal=True).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    position_T1 = torch.arange(t_k - t_q, t_k, device=device)[:, None]
    key_S = torch.arange(t_k, device=device)
    visible_TS = torch.ones(t_q, t_k, dtype=torch.bool, device=device)
    if causal:
        visible_TS &= key_S <= position_T1
    if window is not None:
        visible_TS &= key_S >= position_T1 - window
    return visible_TS


def causal_mask(t_q: int, t_k: int | None = None, *, device: torch.device | str | None = None) -> Bool[Tensor, "T S"]:
    """Each query sees the keys up to its own position; t_k (t_q when left out) may be longer, as in cached decoding.

    >>> causal_mask(2, 4).int().tolist()
    [[1, 1, 1, 0], [1, 1, 1, 1]]
    """
    return visible_mask(t_q, t_q if t_k is None else t_k, causal=True, device=device)


def sliding_window_mask(
    t_q: int, t_k: int | None = None, *, left_window: int, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """Each query sees itself and the `left_window` tokens strictly before it.

    >>> sliding_window_mask(4, left_window=1).int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]

    Raises: ValueError when left_window < 0.
    Source: Mistral 7B, arXiv:2310.06825, where the window W counts the query too: left_window = W - 1.
    """
    if left_window < 0:
        raise ValueError(f"left_window must be at least 0 tokens, got {left_window}; 0 sees itself only")
    return visible_mask(t_q, t_q if t_k is None else t_k, causal=True, window=left_window, device=device)


def prefix_mask(
    t_q: int, t_k: int | None = None, *, prefix: int, device: torch.device | str | None = None
) -> Bool[Tensor, "T S"]:
    """Causal, except that every query sees the first `prefix` keys (a prefix language model).

    >>> prefix_mask(3, prefix=2).int().tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]

    Raises: ValueError when prefix < 0.
    Source: T5, arXiv:1910.10683, section 3.2.1.
    """
    if prefix < 0:
        raise ValueError(f"prefix must be at least 0 tokens, got {prefix}; 0 gives the causal mask")
    t_k = t_q if t_k is None else t_k
    return causal_mask(t_q, t_k, device=device) | (torch.arange(t_k, device=device) < prefix)


def padding_mask(real: Shaped[Tensor, "B S"]) -> Bool[Tensor, "B 1 1 S"]:
    """A mask that hides padded keys from every head and query; `real` is True or 1 where a token is no padding.

    Padded queries still attend (to real keys); their outputs are for the caller to ignore.

    >>> padding_mask(torch.tensor([[1, 1, 0]])).shape
    torch.Size([1, 1, 1, 3])
    """
    return real.bool()[:, None, None, :]


def packed_mask(doc_ids: Int[Tensor, "B T"], *, causal: bool = True) -> Bool[Tensor, "B T T"]:
    """Tokens see their own document only, by default up to themselves; id -1 is padding, which sees and shows nothing.

    For `attention`, which wants a head axis, use `packed_mask(doc_ids)[:, None]`.

    >>> packed_mask(torch.tensor([[7, 7, 2, -1]])).int().tolist()
    [[[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]]
    """
    same_BTT = (doc_ids[:, :, None] == doc_ids[:, None, :]) & (doc_ids != -1)[:, :, None]
    return same_BTT & causal_mask(doc_ids.shape[1], device=doc_ids.device) if causal else same_BTT
