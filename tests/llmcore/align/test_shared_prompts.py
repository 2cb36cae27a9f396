"""Responses packed behind one prompt: the hidden states, and so values and gradients, of each row alone."""

import pytest
import torch
from align_oracle import close, draw, mutated

from llmcore.align import Sequences, logprobs, response_logprobs, shared_prompts, token_logprobs
from llmcore.lora import inject
from llmcore.model import ModelConfig, MoeConfig, Transformer

ONE, OTHER = [3, 1, 4, 1, 5], [9, 2]
PROMPTS = [ONE, ONE, OTHER, ONE, OTHER, ONE, ONE]
RESPONSES = [[5, 3], [5, 8, 9, 7], [1, 2, 3], [], [6], [7, 7, 7, 7, 7], [10]]
MODELS = {
    "rope": {},
    "learned positions": {"position": "learned"},
    "grouped queries, soft-cap, QK-norm": {
        "n_heads": 4,
        "n_kv_heads": 2,
        "width": 16,
        "qk_norm": True,
        "attention_softcap": 9.0,
    },
    "post-norm": {"norm_placement": "post"},
    "experts": {"moe": MoeConfig(n_experts=3, top_k=2, expert_width=8)},
}


def tiny(**changes) -> Transformer:
    options = {"vocab_size": 11, "context": 32, "width": 12, "n_layers": 2, "n_heads": 3} | changes
    return Transformer(ModelConfig(**options), torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("row_tokens", [8, 12, 100])
def test_they_equal_each_row_alone_values_and_gradients(name, row_tokens, monkeypatch):
    model, rows = tiny(**MODELS[name]), Sequences.of(PROMPTS, RESPONSES, pad_id=10)
    monkeypatch.setattr(shared_prompts, "WIDTHS_PER_ROW", row_tokens / model.config.width)
    weights = draw(7, 5, seed=5)
    packed = shared_prompts.pack(rows, row_tokens)
    assert packed is not None
    assert packed.ids.numel() < rows.ids.numel()
    logp, _ = response_logprobs(model, rows)
    (logp * weights).sum().backward()
    got = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = 0.0
    for i, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES)):
        ids = torch.tensor([prompt + response])
        alone = token_logprobs(model(ids), ids)[0, len(prompt) - 1 :]
        close(logp[i, : len(response)], alone)
        total = total + (alone * weights[i, : len(response)]).sum()
    total.backward()
    for mine, parameter in zip(got, model.parameters()):
        if parameter.grad is not None:
            close(mine, parameter.grad, atol=2e-9, rtol=1e-9)  # routers sum in float32


def test_a_row_holds_its_prompt_once_and_no_more_than_it_may():
    packed = shared_prompts.pack(Sequences.of(PROMPTS, RESPONSES), row_tokens=12)
    assert packed.ids.shape[1] <= 12
    rows = [
        [token for token, part in zip(ids, parts) if part >= 0]
        for ids, parts in zip(packed.ids.tolist(), packed.parts.tolist())
    ]
    assert rows == [[*ONE, 5, 3, 5, 8, 9, 7, 10], [*OTHER, 1, 2, 3, 6], [*ONE, 7, 7, 7, 7, 7]]
    visible = packed.visible()
    assert visible[0, 6].int().tolist() == [1] * 7 + [0] * 5
    assert visible[0, 8].int().tolist() == [1] * 5 + [0, 0, 1, 1, 0, 0, 0]
    assert not visible[1, 7:].any()


def test_rows_that_share_nothing_are_left_alone_and_so_are_models_of_another_kind():
    assert shared_prompts.pack(Sequences.of([[1, 2], [3, 4]], [[5], [6]]), row_tokens=100) is None
    long = Sequences.of([[1] * 1000] * 2, [[2] * 25] * 2)
    assert shared_prompts.pack(long, row_tokens=1024) is None
    assert shared_prompts.row_tokens_of(tiny()) == 24
    for change in ({"position": "alibi"}, {"window": 3}):
        model, rows = tiny(**change), Sequences.of(PROMPTS, RESPONSES)
        assert shared_prompts.why_not(model) is not None
        logp, _ = response_logprobs(model, rows)
        ids = rows.ids[:1, :7]
        close(logp[0, :2], token_logprobs(model(ids), ids)[0, 4:])


def test_adapters_are_read_too():
    model, rows = tiny(), Sequences.of(PROMPTS, RESPONSES)
    inject(model, ["q_proj", "down_proj"], r=2, alpha=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.normal_()
    logp, _ = response_logprobs(model, rows)
    ids = torch.tensor([OTHER + RESPONSES[2]])
    close(logp[2, :3], token_logprobs(model(ids), ids)[0, 1:], atol=1e-6, rtol=1e-6)


MUTANTS = {
    "responses see each other": ("(query == key) | (key == PROMPT)", "key != PADDING"),
    "a response does not see the prompt": ("((query == key) | (key == PROMPT))", "(query == key)"),
    "the future is seen": (".tril()", ""),
    "positions count through the row": (
        "positions.view(-1)[places] = (rows.prompt_lengths[:, None] + step)[mask]",
        "pass",
    ),
    "the first token predicted by the response before": (
        "torch.where(step == 0, after_prompt, within)",
        "within.expand_as(mask)",
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_these_tests_catch(name, monkeypatch):
    """At 1e-10 in float64; every one of these changes a log-probability by more than a thousandth."""
    mutant = mutated("llmcore.align.shared_prompts", *MUTANTS[name])
    rows, model = Sequences.of(PROMPTS, RESPONSES), tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # attention far from uniform
    right, _ = response_logprobs(model, rows)
    monkeypatch.setattr(logprobs, "shared_prompts", mutant)
    wrong, _ = response_logprobs(model, rows)
    assert (right - wrong).abs().max() > 1e-3
