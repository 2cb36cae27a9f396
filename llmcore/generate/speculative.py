"""Speculative sampling: a small model guesses several tokens, the large one checks them all at once.

What comes out is distributed exactly as the large model's own samples would be; only the time differs.

Source: arXiv:2211.17192 and arXiv:2302.01318.
"""

# Shapes: V vocabulary, T tokens, n guesses.
import torch
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.generate.decoder import check_room, evaluating
from llmcore.generate.prompt import Prompt, PromptIds
from llmcore.generate.sampling import Sampling, draw, sampling_distribution
from llmcore.generate.stopping import Decodes, Stop, StopRule
from llmcore.model import ModelCache, Transformer


def speculative_generate(
    model: Transformer,
    draft: Transformer,
    ids: PromptIds,
    max_new_tokens: int,
    *,
    n_guesses: int = 4,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Stop = None,
    generator: torch.Generator | None = None,
    tokenizer: Decodes | None = None,
    pad_id: int | None = None,
    counts: dict[str, int] | None = None,
) -> Tensor | list:
    """As `generate`, distributed as `model` alone would be, with `draft` guessing n_guesses tokens ahead.

    Both models share one vocabulary; the settings shape both distributions. Rows are decoded one after another.
    `counts`, if given, has "guessed", "accepted" and "checks" (forwards of the large model) added to it.

    Raises: ValueError for models of different vocabularies, n_guesses below 1, and as `generate`.
    Source: Fast Inference from Transformers via Speculative Decoding, arXiv:2211.17192, algorithm 1.
    """
    if n_guesses < 1:
        raise ValueError(f"n_guesses must be at least 1, got {n_guesses}")
    if model.config.vocab_size != draft.config.vocab_size:
        raise ValueError(
            f"model and draft must share a vocabulary, got {model.config.vocab_size} and {draft.config.vocab_size} tokens"
        )
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    prompt = Prompt.of(ids, model.device)
    rule = StopRule(stop, tokenizer)
    for each in (model, draft):
        check_room(each, prompt.ids.shape[1], max_new_tokens)
    tally = {} if counts is None else counts
    rows = []
    with evaluating(model), evaluating(draft), torch.no_grad():
        for row in range(len(prompt.ids)):
            alone = prompt.ids[row : row + 1]
            if prompt.real is not None:
                alone = alone[:, prompt.real[row]]
            speculation = Speculation(model, draft, alone, sampling, generator, tally)
            rows.append(speculation.run(max_new_tokens, n_guesses, rule))
    longest = max(len(row) for row in rows)
    fill = rule.pad_id if pad_id is None else pad_id
    new = torch.tensor(
        [row + [fill] * (longest - len(row)) for row in rows], dtype=torch.long, device=prompt.ids.device
    )
    return prompt.hand_back(new.reshape(len(rows), longest), torch.tensor([len(row) for row in rows]))


def check_guesses(
    target: Float[Tensor, "m V"],
    guess: Float[Tensor, "n V"],
    tokens: Int[Tensor, "n"],
    generator: torch.Generator | None = None,
) -> tuple[int, Int[Tensor, ""]]:
    """(how many guesses stand, the token after them): the rule that keeps the target's distribution.

    `guess` are the n distributions that `tokens` were drawn from, `target` the n + 1 of the large model. Guess i stands
    with probability min(1, p_i / q_i); the first that falls is replaced by a draw from max(p - q, 0), and if none falls
    one more is drawn from the last target.
    """
    device = tokens.device
    chances = torch.rand(len(tokens), generator=generator, device=generator.device if generator else device).to(device)
    index = torch.arange(len(tokens), device=device)
    p, q = target[index, tokens], guess[index, tokens]
    fell = (chances * q >= p).nonzero()  # u >= p / q, without dividing
    if len(fell) == 0:
        return len(tokens), draw(target[-1:], generator)[0]
    first = int(fell[0])
    left_over = (target[first] - guess[first]).clamp(min=0)
    if not bool(left_over.sum() > 0):  # equal up to rounding
        left_over = target[first]
    return first, draw(left_over[None] / left_over.sum(), generator)[0]


class Speculation:
    """One row's guessing and checking. The large model's cache lacks exactly the last token written, the draft's at least that."""

    def __init__(
        self,
        model: Transformer,
        draft: Transformer,
        prompt: Int[Tensor, "1 T"],
        sampling: Sampling,
        generator: torch.Generator | None,
        counts: dict[str, int],
    ) -> None:
        self.model, self.draft = model, draft
        self.written = prompt
        self.sampling, self.generator, self.counts = sampling, generator, counts
        self.model_cache = ModelCache(model.config, keep_all=True)
        self.draft_cache = ModelCache(draft.config, keep_all=True)
        if prompt.shape[1] > 1:
            model.hidden(prompt[:, :-1], cache=self.model_cache)
            draft.hidden(prompt[:, :-1], cache=self.draft_cache)

    def run(self, max_new_tokens: int, n_guesses: int, rule: StopRule) -> list[int]:
        """The new tokens."""
        start = self.written.shape[1]
        while self.written.shape[1] - start < max_new_tokens:
            left = max_new_tokens - (self.written.shape[1] - start)
            for token in self._round(min(n_guesses, left - 1)):
                self.written = torch.cat((self.written, token.view(1, 1)), dim=1)
                if bool(rule.hits(token.view(1), self.written[:, start:])[0]):
                    return self.written[0, start:].tolist()
            # What was read beyond the last token that stood is forgotten.
            for cache in (self.model_cache, self.draft_cache):
                if cache.length >= self.written.shape[1]:
                    cache.truncate(self.written.shape[1] - 1)
        return self.written[0, start:].tolist()

    def _round(self, n_guesses: int) -> list[Int[Tensor, ""]]:
        """Tokens that stand after one check: the accepted guesses and one of the large model's own."""
        text, guess_rows = self.written, []
        for _ in range(n_guesses):
            logits = self.draft(text[:, self.draft_cache.length :], cache=self.draft_cache)[:, -1]
            guess_rows.append(sampling_distribution(logits, self.sampling, text))
            text = torch.cat((text, draw(guess_rows[-1], self.generator)[:, None]), dim=1)
        logits = self.model(text[:, self.model_cache.length :], cache=self.model_cache)[0]
        ends = range(self.written.shape[1], text.shape[1] + 1)
        target = torch.cat(
            [
                sampling_distribution(row[None], self.sampling, text[:, :end])
                for row, end in zip(logits, ends, strict=True)
            ]
        )
        tokens = text[0, self.written.shape[1] :]
        guess = torch.cat(guess_rows) if guess_rows else target[:0]
        n_stand, final = check_guesses(target, guess, tokens, self.generator)
        for name, count in (("guessed", n_guesses), ("accepted", n_stand), ("checks", 1)):
            self.counts[name] = self.counts.get(name, 0) + count
        return [*tokens[:n_stand], final]
