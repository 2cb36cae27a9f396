"""The trainer's loss: cross-entropy straight from hidden states, without ever holding all logits.

Plain cross-entropy keeps (tokens, vocabulary) logits and as many gradients: 16k tokens of a 128k vocabulary are 8 GB in float32, more
than many a model. Here a few thousand tokens at a time become logits, loss and gradient at once; the gradients of the hidden states
and of the head are finished when the forward pass ends, and backward only scales them. Nothing is computed twice.

Taught in: 05_kl_entropy.
"""

# Shapes: N tokens, C tokens of a chunk, E width, V vocabulary.
import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
CHUNK_ELEMENTS = 1 << 27
"""Logits of a chunk: half a gigabyte in float32."""
CPU_CHUNK_ELEMENTS = 1 << 24


def linear_cross_entropy(
    hidden: Float[Tensor, "*batch E"],
    head: Float[Tensor, "V E"],
    targets: Int[Tensor, "*batch"],
    *,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk_tokens: int | None = None,
    compiled: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """(sum of the losses, sum of plain cross-entropies), in nats, over the targets that are not -100; only the first has gradients.

    Logits are hidden @ head.T, soft-capped if asked. The loss of a token is its cross-entropy, with label_smoothing e against
    (1 - e) one-hot + e / V, plus z_loss * log(Z)^2. Products run in the autocast dtype where autocast is on; softmax and sums
    in float32. `compiled` runs the softmax through torch.compile.

    >>> hidden, head = torch.tensor([[2.0], [5.0]]), torch.tensor([[1.0], [1.0]])
    >>> [round(value.item(), 4) for value in linear_cross_entropy(hidden, head, torch.tensor([0, -100]))]
    [0.6931, 0.6931]

    Raises: ValueError for shapes that do not fit, label_smoothing outside [0, 1), a negative z_loss, or chunk_tokens below 1.
    Source: z-loss, PaLM, arXiv:2204.02311, section 5; smoothing, arXiv:1512.00567, section 7; chunks with finished gradients,
        Liger Kernel, arXiv:2410.10989, section 3.2.
    """
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != head.shape[-1]:
        raise ValueError(
            "hidden (*, E), head (V, E) and targets (*) must fit, "
            f"got {tuple(hidden.shape)}, {tuple(head.shape)} and {tuple(targets.shape)}"
        )
    if not 0 <= label_smoothing < 1 or z_loss < 0:
        raise ValueError(f"label_smoothing must be in [0, 1) and z_loss at least 0, got {label_smoothing} and {z_loss}")
    if chunk_tokens is None:
        limit = CPU_CHUNK_ELEMENTS if hidden.device.type == "cpu" else CHUNK_ELEMENTS
        chunk_tokens = max(128, limit // head.shape[0])
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    options = (softcap, label_smoothing, z_loss, chunk_tokens, compiled, torch.is_grad_enabled())
    return _LinearCrossEntropy.apply(hidden.flatten(0, -2), head, targets.flatten(), options)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients chunk by chunk; backward scales the finished gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, options: tuple) -> tuple[Tensor, Tensor]:
        softcap, label_smoothing, z_loss, chunk_tokens, compiled, learns = options
        work = _work_dtype(hidden)
        h_NE, w_VE = hidden.to(work), head.to(work)
        for_hidden, for_head = (learns and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(h_NE) if for_hidden else None
        grad_head = None
        sums = torch.zeros(2, device=hidden.device)
        chunk_loss = _compiled_chunk_loss() if compiled else _chunk_loss
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(h_NE), chunk_tokens):
                chunk = slice(start, start + chunk_tokens)
                partial, grad_CV = chunk_loss(
                    h_NE[chunk] @ w_VE.T, targets[chunk], softcap, label_smoothing, z_loss, for_hidden or for_head
                )
                sums += partial
                if for_hidden:
                    torch.mm(grad_CV, w_VE, out=grad_hidden[chunk])
                if for_head:
                    grad_head = _plus_product(grad_head, grad_CV.T, h_NE[chunk])
                del grad_CV
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.dtypes = (hidden.dtype, head.dtype)
        loss, cross_entropy = sums.unbind()
        loss, cross_entropy = loss.clone(), cross_entropy.clone()
        ctx.mark_non_differentiable(cross_entropy)
        return loss, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_head = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(scale.to(grad_hidden.dtype)).to(ctx.dtypes[0])
        if grad_head is not None:
            grad_head = grad_head.mul_(scale).to(ctx.dtypes[1])
        return grad_hidden, grad_head, None, None


def _work_dtype(hidden: Tensor) -> torch.dtype:
    device_type = hidden.device.type
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype


def _plus_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right in float32, in place where there is a total."""
    if left.dtype == torch.float32 and total is not None:
        return total.addmm_(left, right)
    product = (left @ right).float()
    return product if total is None else total.add_(product)


def _chunk_loss(
    logits_CV: Tensor,
    targets: Int[Tensor, "C"],
    softcap: float | None,
    label_smoothing: float,
    z_loss: float,
    with_gradient: bool,
) -> tuple[Float[Tensor, "2"], Float[Tensor, "C V"] | None]:
    """((loss, cross-entropy) summed over the chunk, gradient of the loss by the logits); the logits are used up."""
    x_CV = logits_CV.float()
    vocab_size = x_CV.shape[1]
    if softcap is not None:
        bent_CV = x_CV.div_(softcap).tanh_()
        x_CV = bent_CV * softcap
    kept = (targets != IGNORED).float()
    index_C1 = targets.clamp(min=0)[:, None]
    target_logit = x_CV.gather(1, index_C1)[:, 0]
    mean_logit = x_CV.mean(dim=1) if label_smoothing else 0.0
    largest = x_CV.amax(dim=1)
    exp_CV = x_CV.sub_(largest[:, None]).exp_()
    total = exp_CV.sum(dim=1)
    log_z = largest + total.log()
    loss = log_z - (1 - label_smoothing) * target_logit - label_smoothing * mean_logit + z_loss * log_z.square()
    sums = torch.stack(((loss * kept).sum(), ((log_z - target_logit) * kept).sum()))
    if not with_gradient:
        return sums, None
    grad_CV = exp_CV.mul_((kept * (1 + 2 * z_loss * log_z) / total)[:, None])
    if label_smoothing:
        grad_CV.sub_((kept * (label_smoothing / vocab_size))[:, None])
    grad_CV.scatter_add_(1, index_C1, (kept * (label_smoothing - 1))[:, None])
    if softcap is not None:
        grad_CV.mul_(1 - bent_CV.square())
    return sums, grad_CV.to(logits_CV.dtype)


@functools.cache
def _compiled_chunk_loss() -> Any:
    return torch.compile(_chunk_loss)
