"""From logits to the distribution that the next token is drawn from.

The order is fixed: repetition penalty, temperature, top-k, top-p, min-p; each filter sees what the one before left over.
"""

# Shapes: B batch, V vocabulary, S tokens so far.
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the defaults sample from the model's own distribution."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most likely token."""
    top_k: int | None = None
    """Keep the k most likely tokens."""
    top_p: float | None = None
    """Keep the most likely tokens until their sum reaches p; at least one."""
    min_p: float | None = None
    """Keep tokens at least this many times as likely as the most likely one."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens already seen, and multiplies negative ones; 1 does nothing."""

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be at least 0, got {self.temperature}; 0 is greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}; to keep all tokens pass None")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}; to keep all tokens pass None")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}; to keep all tokens pass None")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be positive, got {self.repetition_penalty}; 1 does nothing")


def sampling_distribution(
    logits: Float[Tensor, "B V"],
    sampling: Sampling,
    seen: Int[Tensor, "B S"] | None = None,
    real: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B V"]:
    """Probabilities of the next token, float32, rows summing to 1; `seen` tokens count for the repetition penalty.

    `real` is False where `seen` is padding. Temperature 0 gives all to the first of the greatest logits.

    >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
    >>> sampling_distribution(logits, Sampling(top_k=1)).tolist()
    [[1.0, 0.0, 0.0]]

    Source: top-k, arXiv:1805.04833; top-p, arXiv:1904.09751; min-p, arXiv:2407.01082; repetition, CTRL, arXiv:1909.05858.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1 and seen is not None:
        logits = penalise_seen(logits, seen, sampling.repetition_penalty, real)
    if sampling.temperature == 0:
        return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        kept = logits.topk(sampling.top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter_(-1, kept.indices, kept.values)
    probs = logits.softmax(dim=-1)
    if sampling.top_p is not None and sampling.top_p < 1:
        probs = keep_top_p(probs, sampling.top_p)
    if sampling.min_p:
        probs = probs.masked_fill(probs < sampling.min_p * probs.amax(dim=-1, keepdim=True), 0)
    return probs / probs.sum(dim=-1, keepdim=True)


def penalise_seen(
    logits: Float[Tensor, "B V"], seen: Int[Tensor, "B S"], penalty: float, real: Bool[Tensor, "B S"] | None = None
) -> Float[Tensor, "B V"]:
    """Logits with those of tokens in `seen` made less likely, once however often they were seen.

    >>> penalise_seen(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1, 0]]), 2.0).tolist()
    [[1.0, -4.0, 1.0]]
    """
    hit = torch.ones_like(seen, dtype=torch.float32) if real is None else real.float()
    was_seen = torch.zeros_like(logits).scatter_reduce_(-1, seen, hit, "amax") > 0
    return torch.where(was_seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_p(probs: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """The most likely tokens until their sum reaches top_p, the others 0; not renormalised.

    >>> keep_top_p(torch.tensor([[0.5, 0.2, 0.3]]), 0.6).tolist()
    [[0.5, 0.0, 0.30000001192092896]]
    """
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered  # what more likely tokens already add up to
    total = ordered.sum(dim=-1, keepdim=True)
    return torch.zeros_like(probs).scatter_(-1, order, ordered.masked_fill(before >= top_p * total, 0))


def draw(probs: Float[Tensor, "B V"], generator: torch.Generator | None = None) -> Int[Tensor, "B"]:
    """One token per row, drawn on the generator's device (None: torch's own state)."""
    if generator is not None and generator.device != probs.device:
        return torch.multinomial(probs.to(generator.device), 1, generator=generator)[:, 0].to(probs.device)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def choose(
    logits: Float[Tensor, "B V"],
    sampling: Sampling,
    generator: torch.Generator | None = None,
    seen: Int[Tensor, "B S"] | None = None,
    real: Bool[Tensor, "B S"] | None = None,
) -> Int[Tensor, "B"]:
    """The next token of every row."""
    if sampling.temperature == 0:  # no distribution needed
        if sampling.repetition_penalty != 1 and seen is not None:
            logits = penalise_seen(logits.float(), seen, sampling.repetition_penalty, real)
        return logits.argmax(dim=-1)
    return draw(sampling_distribution(logits, sampling, seen, real), generator)
