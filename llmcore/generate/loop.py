"""`generate`: one token after another, greedy or sampled."""

# Shapes: B batch, T prompt tokens, N new tokens.
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from llmcore.generate.decoder import check_room, evaluating, make_decoder
from llmcore.generate.prompt import Prompt, PromptIds
from llmcore.generate.sampling import Sampling, choose
from llmcore.generate.stopping import Decodes, Stop, StopRule
from llmcore.model import Transformer


def generate(
    model: Transformer,
    ids: PromptIds,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Stop = None,
    generator: torch.Generator | None = None,
    stream: bool = False,
    tokenizer: Decodes | None = None,
    prompt_mask: Bool[Tensor, "B T"] | None = None,
    pad_id: int | None = None,
    static_cache: bool = True,
) -> Tensor | list | Iterator[Int[Tensor, "B"]]:
    """Prompts with up to max_new_tokens more tokens each, in the form in which they came.

    - Tensor prompts (T,) or (B, T) give a tensor (T + N,) or (B, T + N); finished rows are filled with pad_id (the first
      stop id, else 0). Lists of ids, of any lengths, give lists that end where each row ended.
    - Shorter prompts are padded on the left: lists are padded here, for a tensor `prompt_mask` is False at padding.
    - temperature 0 is greedy. The filters apply in the order of `llmcore.generate.sampling`.
    - `stop`: an id, a string (with `tokenizer`), or several; what ends a row stays in it.
    - `stream`: instead, an iterator of the new ids (B,), one step at a time.
    - The cache is allocated once (static_cache) or grows. Dropout is off meanwhile.

    >>> from llmcore.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=7, width=8, n_layers=1, n_heads=2))
    >>> generate(model, torch.tensor([[1, 2]]), 3, temperature=0.0).shape
    torch.Size([1, 5])

    Raises: ValueError for prompts, settings or lengths that cannot be.
    """
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty
    )
    prompt = Prompt.of(ids, model.device).with_padding(prompt_mask)
    rule = StopRule(stop, tokenizer)
    check_room(model, prompt.ids.shape[1], max_new_tokens)
    fill = rule.pad_id if pad_id is None else pad_id
    steps = _steps(model, prompt, max_new_tokens, sampling, rule, generator, fill, static_cache)
    if stream:
        return (token for token, _ in steps)
    tokens, lengths = [], torch.zeros(len(prompt.ids), dtype=torch.long, device=prompt.ids.device)
    with evaluating(model):
        for token, running in steps:
            tokens.append(token)
            lengths += running
    new = torch.stack(tokens, dim=1) if tokens else prompt.ids[:, :0]
    return prompt.hand_back(new, lengths)


def _steps(
    model: Transformer,
    prompt: Prompt,
    max_new_tokens: int,
    sampling: Sampling,
    rule: StopRule,
    generator: torch.Generator | None,
    fill: int,
    static_cache: bool,
) -> Iterator[tuple[Int[Tensor, "B"], Bool[Tensor, "B"]]]:
    """(token of every row, rows that were still running), until all rows ended."""
    if max_new_tokens == 0:
        return
    width = prompt.ids.shape[1]
    written = torch.cat((prompt.ids, prompt.ids.new_zeros(len(prompt.ids), max_new_tokens)), dim=1)
    real = prompt.real
    if real is not None:
        real = torch.cat((real, real.new_ones(len(real), max_new_tokens)), dim=1)
    running = torch.ones(len(prompt.ids), dtype=torch.bool, device=prompt.ids.device)
    can_stop = bool(rule.ids or rule.strings)
    with evaluating(model), torch.no_grad():
        decoder = make_decoder(model, width + max_new_tokens if static_cache else None, max_new_tokens)
        logits = decoder.read(prompt.ids, prompt.real)
    for end in range(width, width + max_new_tokens):
        with evaluating(model), torch.no_grad():  # entered anew each step: between steps the caller's code runs
            if end > width:
                logits = decoder.step(token)
            seen_real = None if real is None else real[:, :end]
            token = choose(logits, sampling, generator, written[:, :end], seen_real)
            if can_stop:
                token = torch.where(running, token, fill)
            written[:, end] = token
            was_running = running
            if can_stop:
                running = running & ~rule.hits(token, written[:, width : end + 1])
        yield token, was_running
        if can_stop and not bool(running.any()):
            return
