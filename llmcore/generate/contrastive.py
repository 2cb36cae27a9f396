"""Contrastive search: likely tokens, but not those that leave the model where it has already been."""

# Shapes: B batch, k candidates, S tokens so far, E width, V vocabulary.
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.generate.decoder import check_room, evaluating
from llmcore.generate.prompt import Prompt, PromptIds
from llmcore.generate.stopping import Decodes, Stop, StopRule
from llmcore.model import ModelCache, Transformer


def contrastive_search(
    model: Transformer,
    ids: PromptIds,
    max_new_tokens: int,
    *,
    top_k: int = 4,
    alpha: float = 0.6,
    stop: Stop = None,
    tokenizer: Decodes | None = None,
    pad_id: int | None = None,
) -> Tensor | list:
    """Prompts continued by the candidate with the greatest (1 - alpha) p - alpha max_s cos(h, h_s), of the top_k likeliest.

    h is the model's last hidden state for the candidate, h_s those of all tokens before it. alpha 0 is greedy. Forms of
    prompts and results as in `generate`. Deterministic.

    Raises: ValueError for top_k below 1, alpha outside [0, 1], and as `generate`.
    Source: A Contrastive Framework for Neural Text Generation, arXiv:2202.06417, eq. 5.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    if not 1 <= top_k <= model.config.vocab_size:
        raise ValueError(f"top_k must be in 1..{model.config.vocab_size}, got {top_k}")
    prompt = Prompt.of(ids, model.device)
    rule = StopRule(stop, tokenizer)
    check_room(model, prompt.ids.shape[1], max_new_tokens)
    fill = rule.pad_id if pad_id is None else pad_id
    batch = len(prompt.ids)
    new = prompt.ids[:, :0]
    lengths = torch.zeros(batch, dtype=torch.long, device=prompt.ids.device)
    with evaluating(model), torch.no_grad():
        cache = ModelCache(model.config)
        doc_ids = None if prompt.real is None else prompt.real.long() - 1
        hidden = model.hidden(prompt.ids, doc_ids=doc_ids, cache=cache)
        past = F.normalize(hidden, dim=-1)
        if prompt.real is not None:  # padding is like nothing
            past = past * prompt.real[..., None]
        logits = model.logits(hidden[:, -1])
        running = torch.ones(batch, dtype=torch.bool, device=prompt.ids.device)
        for _ in range(max_new_tokens):
            token, logits, state = _choose(model, cache, logits, past, top_k, alpha)
            past = torch.cat((past, state[:, None]), dim=1)
            token = torch.where(running, token, fill)
            new = torch.cat((new, token[:, None]), dim=1)
            lengths += running
            running = running & ~rule.hits(token, new)
            if not bool(running.any()):
                break
    return prompt.hand_back(new, lengths)


def _choose(
    model: Transformer,
    cache: ModelCache,
    logits: Float[Tensor, "B V"],
    past: Float[Tensor, "B S E"],
    top_k: int,
    alpha: float,
) -> tuple[Int[Tensor, "B"], Float[Tensor, "B V"], Float[Tensor, "B E"]]:
    """The token, the logits after it and its normalised state; the cache has read it."""
    batch, rows = logits.shape[0], torch.arange(logits.shape[0], device=logits.device)
    probs, candidates = logits.float().softmax(dim=-1).topk(top_k, dim=-1)
    cache.reorder(rows.repeat_interleave(top_k))
    hidden = model.hidden(candidates.reshape(-1, 1), cache=cache)[:, 0].view(batch, top_k, -1)
    states = F.normalize(hidden, dim=-1)
    degeneration = (states @ past.mT).amax(dim=-1)
    best = ((1 - alpha) * probs - alpha * degeneration).argmax(dim=-1)
    cache.reorder(rows * top_k + best)
    return candidates[rows, best], model.logits(hidden[rows, best]), states[rows, best]
