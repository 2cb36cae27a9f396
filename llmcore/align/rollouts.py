"""`rollout`: many answers to many prompts, through the KV cache, with the log-probabilities they were sampled with.

Each prompt is read once, whatever the number of answers; rows that ended leave the batch, so that a long answer does
not make short ones pay.
"""

# Shapes: P prompts, B = P * samples rows, T tokens of prompt and response, N tokens of the longest response, V vocabulary.
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmcore.align.sequences import Sequences
from llmcore.generate.decoder import check_room, evaluating, make_decoder
from llmcore.generate.prompt import Prompt, PromptIds
from llmcore.generate.sampling import Sampling, draw, sampling_distribution
from llmcore.model.transformer import Transformer

COMPACT_BELOW = 0.75
"""The batch shrinks when less than this share of its rows still runs."""


@dataclass(frozen=True)
class Rollout(Sequences):
    """Sampled rows: those of prompt i are i * samples to (i + 1) * samples - 1."""

    logp: Float[Tensor, "B N"]
    """Log-probability of each response token at the sampling temperature, before top-k, top-p and min-p; 0 beyond the end."""
    ended: Bool[Tensor, "B"]
    """Whether the row ended with the end token; False where max_new_tokens cut it."""


@torch.no_grad()
def rollout(
    model: Transformer,
    prompts: PromptIds | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    end_id: int | None = None,
    generator: torch.Generator | None = None,
) -> Rollout:
    """`samples` responses to each prompt of up to max_new_tokens tokens, the end token included.

    Prompts of different lengths are padded and masked inside. Temperature 0 is greedy; its log-probabilities are those
    at temperature 1. Dropout is off meanwhile; no gradient.

    >>> from llmcore.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=7, width=8, n_layers=1, n_heads=2))
    >>> rollout(model, [[1, 2], [3]], 4, samples=3).ids.shape
    torch.Size([6, 6])

    Raises: ValueError for prompts, settings or lengths that cannot be.
    """
    if samples < 1 or max_new_tokens < 1:
        raise ValueError(f"samples and max_new_tokens must be at least 1, got {samples} and {max_new_tokens}")
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    prompt = Prompt.of(prompts, model.device)
    check_room(model, prompt.ids.shape[1], max_new_tokens)
    with evaluating(model):
        tokens, logp, lengths, ended = _sample(model, prompt, max_new_tokens, samples, sampling, end_id, generator)
    longest = int(lengths.max())
    return _assemble(prompt, samples, tokens[:, :longest], logp[:, :longest], lengths, ended)


def _sample(
    model: Transformer,
    prompt: Prompt,
    max_new_tokens: int,
    samples: int,
    sampling: Sampling,
    end_id: int | None,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B N"], Int[Tensor, "B"], Bool[Tensor, "B"]]:
    """(tokens, log-probabilities, lengths, ended) of every row; columns beyond a row's length are 0."""
    batch, device = len(prompt.ids) * samples, model.device
    tokens = torch.zeros(batch, max_new_tokens, dtype=torch.long, device=device)
    logps = torch.zeros(batch, max_new_tokens, device=device)
    lengths = torch.full((batch,), max_new_tokens, device=device)
    decoder = make_decoder(model, prompt.ids.shape[1] + max_new_tokens, max_new_tokens)
    logits = decoder.read(prompt.ids, prompt.real)
    if samples > 1:
        copies = torch.arange(len(prompt.ids), device=device).repeat_interleave(samples)
        decoder.reorder(copies)
        logits = logits[copies]
    rows = torch.arange(batch, device=device)
    running = torch.ones(batch, dtype=torch.bool, device=device)
    for place in range(max_new_tokens):
        if place:
            logits = decoder.step(token)
        token, logp = _choose(logits, sampling, generator)
        if end_id is None:
            tokens[:, place], logps[:, place] = token, logp
            continue
        tokens[rows, place] = torch.where(running, token, 0)
        logps[rows, place] = torch.where(running, logp, 0)
        stopped = running & (token == end_id)
        lengths[rows[stopped]] = place + 1
        running = running & ~stopped
        n_running = int(running.sum())
        if n_running == 0:
            break
        if n_running < COMPACT_BELOW * len(rows):
            kept = running.nonzero()[:, 0]
            decoder.reorder(kept)
            rows, token, running = rows[kept], token[kept], running[kept]
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    if end_id is not None:
        ended = tokens.gather(1, lengths[:, None] - 1)[:, 0] == end_id
    return tokens, logps, lengths, ended


def _choose(
    logits: Float[Tensor, "R V"], sampling: Sampling, generator: torch.Generator | None
) -> tuple[Int[Tensor, "R"], Float[Tensor, "R"]]:
    """(next token of every row, its log-probability)."""
    logits = logits.float()
    if sampling.temperature == 0:
        token, log_p = logits.argmax(dim=-1), logits.log_softmax(dim=-1)
    else:
        log_p = (logits / sampling.temperature).log_softmax(dim=-1)
        filtered = (sampling.top_k, sampling.top_p, sampling.min_p) != (None, None, None)
        token = draw(sampling_distribution(logits, sampling) if filtered else log_p.exp(), generator)
    return token, log_p.gather(1, token[:, None])[:, 0]


def _assemble(prompt: Prompt, samples: int, tokens: Tensor, logp: Tensor, lengths: Tensor, ended: Tensor) -> Rollout:
    """Prompts moved to the left edge, each row's response right after its prompt."""
    n_prompts, width = prompt.ids.shape
    sizes = prompt.real.sum(dim=1) if prompt.real is not None else lengths.new_full((n_prompts,), width)
    shifted = torch.arange(width, device=sizes.device) + (width - sizes)[:, None]
    left = prompt.ids.gather(1, shifted.clamp(max=width - 1))
    left = left.masked_fill(shifted >= width, 0).repeat_interleave(samples, dim=0)
    sizes = sizes.repeat_interleave(samples)
    ids = torch.cat((left, torch.zeros_like(tokens)), dim=1)
    ids.scatter_(1, sizes[:, None] + torch.arange(tokens.shape[1], device=sizes.device), tokens)
    return Rollout(ids[:, : int((sizes + lengths).max())], sizes, lengths, logp, ended)
