"""The best approximation of a matrix by a product of two thin ones."""

import torch
from jaxtyping import Float
from torch import Tensor


def best_rank_r(delta_w: Float[Tensor, "out in"], r: int) -> tuple[Float[Tensor, "out r"], Float[Tensor, "r in"]]:
    """B and A whose product is, of all matrices of rank r, nearest to delta_w (Frobenius); singular values split evenly.

    Computed in float32, float64 for float64 input, and returned in the input's dtype.

    >>> b, a = best_rank_r(torch.diag(torch.tensor([3.0, 2.0, 1.0])), 2)
    >>> (b @ a).abs().round(decimals=3).diagonal().tolist()
    [3.0, 2.0, 0.0]

    Raises: ValueError for r outside 1..min(out, in) or delta_w that is no matrix.
    Source: Eckart and Young, The approximation of one matrix by another of lower rank, 1936.  Taught in: 06_lora.
    """
    if delta_w.ndim != 2:
        raise ValueError(f"delta_w must be a matrix (out, in), got shape {tuple(delta_w.shape)}")
    if not 1 <= r <= min(delta_w.shape):
        raise ValueError(f"r must be in 1..{min(delta_w.shape)} for a matrix of shape {tuple(delta_w.shape)}, got {r}")
    wide = delta_w if delta_w.dtype == torch.float64 else delta_w.float()
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    root = s[:r].sqrt()
    return (u[:, :r] * root).to(delta_w.dtype), (root[:, None] * vh[:r]).to(delta_w.dtype)
