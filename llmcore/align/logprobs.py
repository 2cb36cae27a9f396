"""Log-probabilities of responses, without ever making the logits of their prompts or of padding.

Rows that share a prompt are read behind it, in one row (`shared_prompts`); otherwise each has a row padded on the
right. The hidden states that predict a response's tokens are picked out first; only they meet the head, some thousand
at a time. The backward pass works from the probabilities where they are small enough to keep, and makes them again
where they are not.

Taught in: 07_dpo_grpo.
"""

# Shapes: B rows, T tokens, N response tokens, M picked tokens, C tokens of a chunk, E width, V vocabulary.
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from llmcore.align import shared_prompts
from llmcore.align.sequences import Sequences
from llmcore.model.transformer import Transformer

CHUNK_ELEMENTS = 1 << 24
"""Logits that are held at once."""


def response_logprobs(
    model: Transformer, rows: Sequences, temperature: float = 1.0
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """(log-probability, entropy) in nats at each response token, 0 beyond a response's end; only the first has gradients.

    Logits are divided by the temperature: pass the one that the responses were sampled with. Rows are padded on the
    right.

    >>> from llmcore.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=7, width=8, n_layers=1, n_heads=2))
    >>> response_logprobs(model, Sequences.of([[1, 2], [3]], [[4], [5, 6]]))[0].shape
    torch.Size([2, 2])

    Raises: ValueError for a model that is not causal, rows on another device, or a temperature that is not positive.
    """
    _check(model, rows, temperature)
    mask = rows.response_mask
    hidden = predicting_states(model, rows)
    targets = rows.ids.gather(1, rows.response_places)[mask]
    picked, entropy = linear_logprobs(
        hidden, model.head_weight, targets, temperature=temperature, softcap=model.config.logit_softcap
    )
    logp = torch.zeros(mask.shape, dtype=picked.dtype, device=mask.device)
    return logp.masked_scatter(mask, picked), torch.zeros_like(logp).masked_scatter(mask, entropy)


def predicting_states(model: Transformer, rows: Sequences) -> Float[Tensor, "M E"]:
    """The hidden states that predict the responses' tokens, row after row; prompts that rows share are read once."""
    if shared_prompts.why_not(model) is None:
        packed = shared_prompts.pack(rows, shared_prompts.row_tokens_of(model))
        if packed is not None:
            return shared_prompts.packed_states(model, packed)
    hidden_BTE = model.hidden(rows.ids[:, :-1] if rows.ids.shape[1] > 1 else rows.ids)
    num_tokens = hidden_BTE.shape[1]
    before = rows.response_places - 1 + torch.arange(len(rows), device=rows.ids.device)[:, None] * num_tokens
    return hidden_BTE.flatten(0, 1).index_select(0, before[rows.response_mask])


def linear_logprobs(
    hidden: Float[Tensor, "M E"],
    head: Float[Tensor, "V E"],
    targets: Int[Tensor, "M"],
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, "M"], Float[Tensor, "M"]]:
    """(log-probability of each target, entropy of each distribution) in nats; softmax in float32, float64 stays.

    Logits are hidden @ head.T, soft-capped if asked, divided by the temperature. The entropy has no gradient.

    >>> logp, entropy = linear_logprobs(torch.ones(1, 1), torch.ones(4, 1), torch.tensor([2]))
    >>> logp.exp().item(), round(entropy.exp().item(), 4)
    (0.25, 4.0)

    Raises: ValueError for chunk_tokens below 1.
    """
    if chunk_tokens is None:
        chunk_tokens = max(64, CHUNK_ELEMENTS // head.shape[0])
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
    return _LinearLogprobs.apply(hidden, head, targets, (1 / temperature, softcap, chunk_tokens))


class _LinearLogprobs(torch.autograd.Function):
    """Forward chunk by chunk; one chunk's probabilities are kept for backward, those of more chunks made again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, options: tuple) -> tuple[Tensor, Tensor]:
        inverse, softcap, size = options
        device_type = hidden.device.type
        work = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
        parts, probs = [], None
        with torch.autocast(device_type, enabled=False):
            h_ME, w_VE = hidden.to(work), head.to(work)
            for start in range(0, max(len(h_ME), 1), size):
                chunk = slice(start, start + size)
                probs, logp, entropy, _ = _chunk(h_ME[chunk], w_VE, targets[chunk], inverse, softcap)
                parts.append(torch.stack((logp, entropy)))
        keeps = len(parts) == 1 and softcap is None and any(ctx.needs_input_grad[:2])
        ctx.save_for_backward(h_ME, w_VE, targets, probs if keeps else None)
        ctx.options, ctx.dtypes = options, (hidden.dtype, head.dtype)
        logp, entropy = torch.cat(parts, dim=1).unbind()
        logp, entropy = logp.clone(), entropy.clone()
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logp: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        h_ME, w_VE, targets, kept = ctx.saved_tensors
        inverse, softcap, size = ctx.options
        for_hidden, for_head = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(h_ME) if for_hidden else None
        grad_head = None
        for start in range(0, max(len(h_ME), 1), size):
            chunk = slice(start, start + size)
            probs, bend = kept, None
            if kept is None:
                probs, _, _, bend = _chunk(h_ME[chunk], w_VE, targets[chunk], inverse, softcap)
            scale_C1 = (grad_logp[chunk] * inverse)[:, None]
            grad_CV = (probs * -scale_C1).scatter_add_(1, targets[chunk, None], scale_C1)
            if bend is not None:
                grad_CV = grad_CV * bend
            grad_CV = grad_CV.to(h_ME.dtype)
            if for_hidden:
                torch.mm(grad_CV, w_VE, out=grad_hidden[chunk])
            if for_head:
                product = (grad_CV.T @ h_ME[chunk]).to(torch.promote_types(h_ME.dtype, torch.float32))
                grad_head = product if grad_head is None else grad_head.add_(product)
        return (
            None if grad_hidden is None else grad_hidden.to(ctx.dtypes[0]),
            None if grad_head is None else grad_head.to(ctx.dtypes[1]),
            None,
            None,
        )


def _chunk(
    h_CE: Tensor, w_VE: Tensor, targets: Tensor, inverse: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """(probabilities, log-probability of the target, entropy, slope of the soft-cap)."""
    x_CV = h_CE @ w_VE.T
    x_CV = x_CV.to(torch.promote_types(x_CV.dtype, torch.float32))
    bend = None
    if softcap is not None:
        bent = (x_CV / softcap).tanh()
        x_CV, bend = bent * softcap, 1 - bent.square()
    if inverse != 1:
        x_CV = x_CV * inverse
    x_CV = x_CV - x_CV.amax(dim=1, keepdim=True)
    of_target = x_CV.gather(1, targets[:, None])[:, 0]
    probs = x_CV.exp()
    total = probs.sum(dim=1)
    log_total = total.log()
    probs /= total[:, None]
    entropy = log_total - torch.where(probs > 0, probs * x_CV, 0).sum(dim=1)
    return probs, of_target - log_total, entropy, bend


def _check(model: Transformer, rows: Sequences, temperature: float) -> None:
    if not model.config.causal:
        raise ValueError("responses have log-probabilities under a causal model only, got one with causal=False")
    if not temperature > 0:
        raise ValueError(
            f"temperature must be positive, got {temperature}; 0 leaves one response possible and no gradient"
        )
    if rows.ids.device != model.device:
        raise ValueError(
            f"rows are on {rows.ids.device} and the model on {model.device}; move one with .to({str(model.device)!r})"
        )
