"""Rollouts: greedy ones equal `generate`, sampled ones carry the log-probabilities that the model gives them, padding has no influence."""

import pytest
import torch
from align_oracle import close
from refused import refused

from llmcore import align
from llmcore.align import response_logprobs, rollout, rollouts
from llmcore.generate import generate
from llmcore.model import ModelConfig, Transformer

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]
END = 7


def tiny(**changes) -> Transformer:
    options = {"vocab_size": 11, "context": 32, "width": 12, "n_layers": 2, "n_heads": 3} | changes
    model = Transformer(ModelConfig(**options), torch.Generator().manual_seed(3))
    with torch.no_grad():
        model.embedding.weight.mul_(20)  # far from uniform, so that greedy rows differ
    return model


@pytest.mark.parametrize("change", [{}, {"qk_norm": True}], ids=["lean", "ordinary"])
def test_greedy_rollouts_are_what_generate_gives_each_prompt_alone(change):
    model = tiny(**change)
    found = rollout(model, PROMPTS, 8, temperature=0.0, end_id=END, samples=2)
    for index, response in enumerate(found.responses()):
        prompt = PROMPTS[index // 2]
        alone = generate(model, torch.tensor(prompt), 8, temperature=0.0, stop=END).tolist()
        assert response == alone[len(prompt) :]
        assert bool(found.ended[index]) == (response[-1] == END)
    assert found.prompt_lengths.tolist() == [5, 5, 1, 1, 2, 2]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("change", [{}, {"qk_norm": True}], ids=["lean", "ordinary"])
def test_its_log_probabilities_are_the_model_s_at_that_temperature(change, temperature):
    model = tiny(**change)
    found = rollout(
        model, PROMPTS, 9, samples=5, temperature=temperature, end_id=END, generator=torch.Generator().manual_seed(0)
    )
    assert len(set(found.response_lengths.tolist())) > 2  # rows did leave the batch at different times
    logp, _ = response_logprobs(model, found, temperature)
    close(found.logp, logp, atol=2e-5, rtol=1e-5)
    assert not found.logp.requires_grad
    assert not found.logp.is_inference()
    (logp - found.logp).sum().backward()


def test_the_frequencies_of_the_first_token_are_the_model_s():
    model = tiny()
    found = rollout(model, [PROMPTS[0]], 1, samples=4000, generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(found.ids[:, 5], minlength=11) / 4000
    want = model(torch.tensor(PROMPTS[:1]))[0, -1].softmax(-1)
    close(counts, want, atol=0.04, rtol=0)  # five standard errors of 4000 draws


def test_without_an_end_token_all_rows_have_full_length_and_filters_are_obeyed():
    model = tiny()
    found = rollout(model, PROMPTS, 6, top_k=1, generator=torch.Generator().manual_seed(0))
    assert found.response_lengths.tolist() == [6, 6, 6]
    assert not found.ended.any()
    assert found.responses() == rollout(model, PROMPTS, 6, temperature=0.0).responses()


def test_the_same_generator_gives_the_same_rows_and_dropout_is_off():
    model = tiny(dropout=0.5).train()
    one, two = (rollout(model, PROMPTS, 6, samples=3, generator=torch.Generator().manual_seed(4)).ids for _ in range(2))
    assert torch.equal(one, two)
    assert model.training


def test_greedy_log_probabilities_are_those_at_temperature_one():
    model = tiny()
    found = rollout(model, PROMPTS, 4, temperature=0.0)
    close(found.logp, response_logprobs(model, found)[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": [[1], []]}, "every prompt must have at least one token"),
        ({"max_new_tokens": 0}, "samples and max_new_tokens must be at least 1"),
        ({"samples": 0}, "samples and max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"max_new_tokens": 40, "position": "learned"}, "must fit the model's 32 learned positions"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    position = {"position": change.pop("position")} if "position" in change else {}
    with refused(message):
        rollout(tiny(**position), **({"prompts": PROMPTS, "max_new_tokens": 3} | change))


def test_mistakes_in_padding_and_bookkeeping_are_seen(monkeypatch):
    """A row that keeps its place after the batch shrinks, and a response that starts at the padded width, give other rows than above."""
    from align_oracle import mutated

    changes = {
        "rows not followed": ("rows, token, running = rows[kept], token[kept]", "rows, token, running = rows[: len(kept)], token[kept]"),
        "padding kept": ("(width - sizes)[:, None]", "(0 * sizes)[:, None]"),
    }  # fmt: skip
    assert align.rollout is rollouts.rollout
    for line, change in changes.values():
        monkeypatch.setitem(globals(), "rollout", mutated("llmcore.align.rollouts", line, change).rollout)
        with pytest.raises((AssertionError, RuntimeError)):
            test_its_log_probabilities_are_the_model_s_at_that_temperature({}, 1.0)
