"""Beam search: keep the few most likely continuations at every step."""

# Shapes: B prompts, W beams, V vocabulary, T prompt tokens, N new tokens.
import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.generate.decoder import check_room, evaluating, make_decoder
from llmcore.generate.prompt import Prompt, PromptIds
from llmcore.generate.stopping import Decodes, Stop, StopRule
from llmcore.model import Transformer


@dataclass
class Hypotheses:
    """The best finished continuations of one prompt."""

    n_beams: int
    length_penalty: float
    found: list[tuple[float, list[int]]] = field(default_factory=list)
    """(score, new ids), best first, at most n_beams."""

    def score(self, log_prob: float, length: int) -> float:
        """Log-probability over length^length_penalty: 0 prefers short texts, 1 compares means per token."""
        return log_prob / length**self.length_penalty

    def add(self, log_prob: float, ids: list[int]) -> None:
        """Take in a finished continuation if it is among the best."""
        self.found.append((self.score(log_prob, len(ids)), ids))
        self.found.sort(key=lambda item: item[0], reverse=True)
        del self.found[self.n_beams :]

    def is_settled(self, best_running: float, length: int, max_length: int) -> bool:
        """Whether no running beam can still get in: log-probabilities only fall, lengths only grow."""
        if best_running == -math.inf or len(self.found) < self.n_beams:
            return best_running == -math.inf
        best_length = max_length if self.length_penalty > 0 else length
        return self.found[-1][0] >= self.score(best_running, best_length)


def beam_search(
    model: Transformer,
    ids: PromptIds,
    max_new_tokens: int,
    *,
    n_beams: int = 4,
    length_penalty: float = 1.0,
    stop: Stop = None,
    tokenizer: Decodes | None = None,
    pad_id: int | None = None,
    return_all: bool = False,
) -> Tensor | list:
    """Each prompt with its best continuation, in the form in which it came (see `generate`).

    A continuation's score is the sum of its log-probabilities over (its tokens)^length_penalty. With `return_all`, for
    each prompt the list of up to n_beams (score, new ids), best first. The result is the true optimum when n_beams is at
    least the number of continuations; otherwise good continuations may have been dropped early.

    Raises: ValueError for n_beams below 1, and as `generate`.
    Source: length normalisation, Google's NMT, arXiv:1609.08144, section 7 (with a plain power).
    """
    if n_beams < 1:
        raise ValueError(f"n_beams must be at least 1, got {n_beams}")
    prompt = Prompt.of(ids, model.device)
    rule = StopRule(stop, tokenizer)
    check_room(model, prompt.ids.shape[1], max_new_tokens)
    pools = [Hypotheses(n_beams, length_penalty) for _ in prompt.ids]
    if max_new_tokens:
        with evaluating(model), torch.no_grad():
            _search(model, prompt, max_new_tokens, n_beams, rule, pools)
    if return_all:
        return [pool.found for pool in pools]
    best = [pool.found[0][1] if pool.found else [] for pool in pools]
    longest = max(len(row) for row in best)
    fill = rule.pad_id if pad_id is None else pad_id
    new = torch.tensor(
        [row + [fill] * (longest - len(row)) for row in best], dtype=torch.long, device=prompt.ids.device
    )
    return prompt.hand_back(new.reshape(len(best), longest), torch.tensor([len(row) for row in best]))


def _search(
    model: Transformer, prompt: Prompt, max_new_tokens: int, n_beams: int, rule: StopRule, pools: list[Hypotheses]
) -> None:
    batch, device = len(pools), prompt.ids.device
    decoder = make_decoder(model, prompt.ids.shape[1] + max_new_tokens, max_new_tokens)
    log_probs = decoder.read(prompt.ids, prompt.real).float().log_softmax(dim=-1)
    decoder.reorder(torch.arange(batch, device=device).repeat_interleave(n_beams))
    log_probs = log_probs.repeat_interleave(n_beams, dim=0)
    # At first all beams are the same, so only the first of each prompt counts.
    sums_BW = torch.full((batch, n_beams), -torch.inf, device=device)
    sums_BW[:, 0] = 0
    written = torch.empty(batch * n_beams, 0, dtype=torch.long, device=device)
    for length in range(1, max_new_tokens + 1):
        sums_BW, origin, token = _extend(sums_BW, log_probs, written, rule, pools, last=length == max_new_tokens)
        if length == max_new_tokens or all(
            pool.is_settled(sums.max().item(), length, max_new_tokens)
            for pool, sums in zip(pools, sums_BW, strict=True)
        ):
            return
        written = torch.cat((written[origin], token[:, None]), dim=1)
        decoder.reorder(origin)
        log_probs = decoder.step(token).float().log_softmax(dim=-1)


def _extend(
    sums_BW: Float[Tensor, "B W"],
    log_probs: Float[Tensor, "BW V"],
    written: Int[Tensor, "BW N"],
    rule: StopRule,
    pools: list[Hypotheses],
    last: bool,
) -> tuple[Float[Tensor, "B W"], Int[Tensor, "BW"], Int[Tensor, "BW"]]:
    """New sums, and for each new beam the row it came from and its token; finished ones go to the pools.

    Of 2 W candidates at most W can end in any one stop id per beam, so W that go on are left; a beam without successor
    is kept at -inf.
    """
    batch, n_beams = sums_BW.shape
    vocab_size = log_probs.shape[-1]
    totals = (sums_BW.reshape(-1, 1) + log_probs).view(batch, -1)
    n_candidates = min(totals.shape[1], (1 + max(1, len(rule.ids))) * n_beams)
    values, flat = totals.topk(n_candidates, dim=1)
    rows = flat // vocab_size + torch.arange(batch, device=flat.device)[:, None] * n_beams
    tokens = flat % vocab_size
    ended = rule.hits(tokens.flatten(), torch.cat((written[rows.flatten()], tokens.reshape(-1, 1)), dim=1)).view_as(
        rows
    )
    new_sums = torch.full_like(sums_BW, -torch.inf)
    origin = torch.arange(batch * n_beams, device=flat.device).view(batch, n_beams)
    new_tokens = torch.zeros_like(origin)
    for b, pool in enumerate(pools):
        slot = 0
        for value, row, token, stops in zip(
            values[b].tolist(), rows[b].tolist(), tokens[b].tolist(), ended[b].tolist()
        ):
            if value == -torch.inf or slot == n_beams:
                break
            if stops or last:
                pool.add(value, [*written[row].tolist(), token])
            if not stops:
                new_sums[b, slot], origin[b, slot], new_tokens[b, slot] = value, row, token
                slot += 1
    return new_sums, origin.flatten(), new_tokens.flatten()
