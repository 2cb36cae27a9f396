"""Log-probabilities without the prompt's logits: equal to the plain way in values and gradients, for every kind of row."""

import pytest
import torch
from align_oracle import close, draw, mutated
from refused import refused

from llmcore.align import Sequences, linear_logprobs, logprobs, response_logprobs, token_logprobs
from llmcore.model import ModelConfig, Transformer

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6]]
RESPONSES = [[5, 3], [5, 8, 9, 7], []]


def tiny(**changes) -> Transformer:
    options = {"vocab_size": 11, "context": 32, "width": 12, "n_layers": 2, "n_heads": 3} | changes
    return Transformer(ModelConfig(**options), torch.Generator().manual_seed(0)).double()


def plainly(model: Transformer, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """One row alone, all its logits."""
    ids = torch.tensor([prompt + response])
    return token_logprobs(model(ids) / temperature, ids)[0, len(prompt) - 1 :]


@pytest.mark.parametrize("change", [{}, {"logit_softcap": 5.0}, {"position": "learned"}, {"position": "alibi"}])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_they_equal_those_of_each_row_alone_values_and_gradients(change, temperature):
    model, rows = tiny(**change), Sequences.of(PROMPTS, RESPONSES, pad_id=10)
    weights = draw(3, 4, seed=5)
    logp, entropy = response_logprobs(model, rows, temperature)
    (logp * weights).sum().backward()
    got = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    alone = [plainly(model, *row, temperature) for row in zip(PROMPTS, RESPONSES)]
    sum((one * weights[i, : len(one)]).sum() for i, one in enumerate(alone)).backward()
    for i, one in enumerate(alone):
        close(logp[i, : len(one)], one)
        assert (logp[i, len(one) :] == 0).all()
        assert (entropy[i, len(one) :] == 0).all()
    for mine, plain in zip(got, model.parameters()):
        close(mine, plain.grad)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_chunks_change_nothing_and_gradients_agree_with_differences(chunk, softcap):
    hidden, head = draw(7, 5).requires_grad_(), draw(11, 5, seed=1).requires_grad_()
    targets = torch.tensor([0, 10, 3, 3, 7, 1, 2])

    def of(h, w):
        return linear_logprobs(h, w, targets, temperature=1.3, softcap=softcap, chunk_tokens=chunk)[0]

    assert torch.autograd.gradcheck(of, (hidden, head))
    logits = hidden @ head.T
    logits = (logits if softcap is None else softcap * torch.tanh(logits / softcap)) / 1.3
    log_p = logits.log_softmax(-1)
    logp, entropy = linear_logprobs(hidden, head, targets, temperature=1.3, softcap=softcap, chunk_tokens=chunk)
    close(logp, log_p.gather(1, targets[:, None])[:, 0])
    close(entropy, -(log_p.exp() * log_p).sum(-1))
    assert not entropy.requires_grad


def test_no_rows_to_pick_and_extreme_logits_are_finite():
    head = draw(11, 5).requires_grad_()
    logp, _ = linear_logprobs(torch.zeros(0, 5).double(), head, torch.zeros(0, dtype=torch.long))
    logp.sum().backward()
    assert logp.shape == (0,)
    hidden = (300 * draw(2, 5)).requires_grad_()
    logp, entropy = linear_logprobs(hidden, head, torch.tensor([1, 2]))
    logp.sum().backward()
    assert logp.isfinite().all()
    assert entropy.isfinite().all()
    assert hidden.grad.isfinite().all()


def test_autocast_multiplies_in_its_dtype_and_sums_in_float32():
    hidden, head = draw(4, 8).float().requires_grad_(), draw(11, 8, seed=1).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logp, _ = linear_logprobs(hidden, head, torch.tensor([1, 2, 3, 4]))
    logp.sum().backward()
    assert logp.dtype == hidden.grad.dtype == head.grad.dtype == torch.float32
    close(logp, linear_logprobs(hidden, head, torch.tensor([1, 2, 3, 4]))[0], atol=0.1, rtol=0)


def test_what_cannot_be_is_refused():
    rows = Sequences.of(PROMPTS, RESPONSES)
    with refused("temperature must be positive"):
        response_logprobs(tiny(), rows, 0.0)
    with refused("under a causal model only"):
        response_logprobs(tiny(causal=False), rows)
    with refused("rows are on meta and the model on cpu; move one"):
        response_logprobs(tiny(), rows.to("meta"))
    with refused("row 1 has an empty prompt"):
        Sequences.of([[1], []], [[2], [3]])
    with refused("as many responses as prompts"):
        Sequences.of([[1]], [])
    with refused("chunk_tokens must be at least 1"):
        linear_logprobs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), chunk_tokens=0)


def test_rows_are_cut_and_joined_without_a_change():
    rows = Sequences.of(PROMPTS, RESPONSES, pad_id=0)
    some = rows.rows(torch.tensor([2, 0]))
    assert some.ids.tolist() == [[2, 6, 0, 0, 0, 0, 0], [3, 1, 4, 1, 5, 5, 3]]
    assert some.responses() == [[], [5, 3]]
    again = Sequences.join([rows.rows(slice(0, 1)), rows.rows(slice(1, 3))])
    assert again.ids.tolist() == rows.ids.tolist()
    assert again.responses() == RESPONSES
    assert rows.rows(torch.tensor([], dtype=torch.long)).responses() == []


MUTANTS = {
    "logits of the token itself": ("rows.response_places - 1 +", "rows.response_places +"),
    "the temperature left out": ("if inverse != 1:", "if False:"),
    "the temperature multiplied": ("(1 / temperature, softcap", "(temperature, softcap"),
    "the gradient without the temperature": ("(grad_logp[chunk] * inverse)", "(grad_logp[chunk])"),
    "the gradient without the target": (".scatter_add_(1, targets[chunk, None], scale_C1)", ""),
    "entropy of the unnormalised": ("probs /= total[:, None]", "pass"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_these_tests_catch(name, monkeypatch):
    """At 1e-10 in float64, where rounding is about 1e-15."""
    mutant = mutated("llmcore.align.logprobs", *MUTANTS[name])
    assert mutant.response_logprobs is not logprobs.response_logprobs
    monkeypatch.setitem(globals(), "response_logprobs", mutant.response_logprobs)
    monkeypatch.setitem(globals(), "linear_logprobs", mutant.linear_logprobs)
    failures = 0
    for check in (
        lambda: test_they_equal_those_of_each_row_alone_values_and_gradients({}, 0.7),
        lambda: test_chunks_change_nothing_and_gradients_agree_with_differences(3, None),
    ):
        try:
            check()
        except Exception:
            failures += 1
    assert failures
