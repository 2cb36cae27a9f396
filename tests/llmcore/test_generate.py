"""generate: greedy, sampling, padding, streaming, stopping, and the filters one by one."""

import math

import pytest
import torch
from refused import refused
from transformer_oracle import CONFIGS, config

from llmcore.generate import Sampling, generate, sampling_distribution
from llmcore.generate.sampling import keep_top_p, penalise_seen
from llmcore.model import Transformer


def make(name: str = "plain", **options) -> Transformer:
    return Transformer(CONFIGS[name].replace(**options), torch.Generator().manual_seed(0)).eval()


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_ids(batch: int = 2, time: int = 6) -> torch.Tensor:
    return torch.randint(0, 31, (batch, time), generator=gen(1))


@torch.no_grad()
def greedy_oracle(model: Transformer, ids: torch.Tensor, n: int) -> torch.Tensor:
    """Without any cache: read everything anew for every token."""
    for _ in range(n):
        ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
    return ids


class Letters:
    """A tokenizer of single letters: 0 is a, 1 is b, ..."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + i) for i in ids)


@pytest.mark.parametrize("static_cache", [True, False])
@pytest.mark.parametrize("name", [name for name in CONFIGS if CONFIGS[name].causal])
def test_greedy_equals_reading_everything_anew(name, static_cache):
    model, ids = make(name), some_ids()
    got = generate(model, ids, 9, temperature=0.0, static_cache=static_cache)
    assert torch.equal(got, greedy_oracle(model, ids, 9))
    assert not got.is_inference()


@pytest.mark.parametrize("name", ["plain", "learned-post", "alibi", "mla", "gemma-like", "moe", "nope-layers"])
def test_prompts_of_different_lengths_equal_each_alone(name):
    model = make(name)
    prompts = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
    got = generate(model, prompts, 6, temperature=0.0)
    assert got == [greedy_oracle(model, torch.tensor([prompt]), 6)[0].tolist() for prompt in prompts]


def test_prompts_come_back_in_their_own_form():
    model = make()
    row = generate(model, torch.tensor([3, 1]), 2, temperature=0.0)
    assert row.shape == (4,)
    assert generate(model, [3, 1], 2, temperature=0.0) == row.tolist()
    assert generate(model, [[3, 1]], 2, temperature=0.0) == [row.tolist()]
    padded, mask = torch.tensor([[0, 3, 1], [7, 8, 9]]), torch.tensor([[False, True, True], [True] * 3])
    both = generate(model, padded, 2, temperature=0.0, prompt_mask=mask)
    assert both[0, 1:].tolist() == row.tolist()
    assert torch.equal(generate(model, some_ids(), 0), some_ids())


def test_a_seed_repeats_a_text_and_another_changes_it():
    model, ids = make(), some_ids()
    first, again, other = (generate(model, ids, 12, generator=gen(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    generate(model, ids, 3, generator=gen(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_streaming_yields_the_same_tokens_step_by_step():
    model, ids = make(), some_ids()
    whole = generate(model, ids, 7, generator=gen(3))
    stream = generate(model, ids, 7, generator=gen(3), stream=True)
    first = next(stream)
    assert not torch.is_inference_mode_enabled()
    assert torch.equal(torch.stack([first, *stream], dim=1), whole[:, 6:])


def test_stop_ids_end_a_row_and_the_others_go_on():
    model, ids = make(), some_ids()
    free = generate(model, ids, 10, generator=gen(5))
    stop = free[0, 8].item()
    ends = [(row[6:] == stop).nonzero().flatten().tolist() for row in free]
    got = generate(model, ids, 10, generator=gen(5), stop=stop, pad_id=30)
    for row in range(2):
        end = 6 + ends[row][0] + 1 if ends[row] else 16
        assert torch.equal(got[row, :end], free[row, :end])
        assert (got[row, end:] == 30).all()
    rows = generate(model, ids.tolist(), 10, generator=gen(5), stop=[stop, 30])
    assert rows[0][-1] == stop
    assert len(rows[0]) == 6 + ends[0][0] + 1


def test_all_rows_finished_end_the_work():
    model, ids = make(), some_ids(batch=1)
    token = generate(model, ids, 1, temperature=0.0)[0, -1].item()
    assert generate(model, ids, 30, temperature=0.0, stop=token).shape == (1, 7)
    assert len(list(generate(model, ids, 30, temperature=0.0, stop=token, stream=True))) == 1


def test_stop_strings_may_span_tokens_and_begin_in_the_new_text_only():
    model = make()
    prompt = some_ids(batch=1)
    letters = Letters()
    free = generate(model, prompt, 12, generator=gen(2))[0].tolist()
    text = letters.decode(free[6:])
    string = text[3:6]
    end = text.index(string) + 3
    got = generate(model, prompt[0].tolist(), 12, generator=gen(2), stop=string, tokenizer=letters)
    assert letters.decode(got[6:]) == text[:end]
    in_prompt = letters.decode(free[4:6])
    if in_prompt not in text:
        assert generate(model, prompt, 12, generator=gen(2), stop=in_prompt, tokenizer=letters).shape == (1, 18)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0; 0 is greedy"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, "top_p"),
        ({"min_p": -0.1}, r"min_p must be in \[0, 1\], got -0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive, got 0.0"),
        ({"stop": "end"}, "stop strings such as 'end' need tokenizer"),
        ({"stop": "", "tokenizer": Letters()}, "at least one character"),
        ({"prompt_mask": torch.tensor([[True, False]] * 2)}, r"prompt_mask must have the shape of ids \(2, 6\)"),
        ({"prompt_mask": torch.tensor([[True] * 5 + [False]] * 2)}, "padding must be on the left"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with refused(match=message):
        generate(make(), some_ids(), 2, **options)


def test_wrong_prompts_and_lengths_are_refused():
    model = make()
    for prompt in ([], [[1], []], torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 2)):
        with refused(match="at least one token"):
            generate(model, prompt, 2)
    with refused(match="max_new_tokens must be at least 0, got -1"):
        generate(model, some_ids(), -1)
    with refused(match=r"must fit the model's 40 learned positions, got 6 \+ 35 tokens"):
        generate(make("learned-post"), some_ids(), 35)
    assert generate(make("learned-post"), some_ids(), 34, temperature=0.0).shape == (2, 40)


def test_dropout_is_off_meanwhile_and_the_mode_comes_back():
    model = make(dropout=0.5).train()
    ids = some_ids()
    assert torch.equal(generate(model, ids, 5, temperature=0.0), generate(model, ids, 5, temperature=0.0))
    assert model.training
    stream = generate(model, ids, 5, temperature=0.0, stream=True)
    next(stream)
    assert model.training


def test_what_was_generated_can_be_trained_on():
    model, ids = make(), some_ids()
    text = generate(model, ids, 5, generator=gen())
    model(text).sum().backward()
    assert model.embedding.weight.grad is not None


def test_samples_follow_the_distribution():
    model = make()
    probs = sampling_distribution(model(some_ids(batch=1))[:, -1].detach(), Sampling(temperature=0.7, top_k=5))[0]
    drawn = generate(model, some_ids(batch=1).expand(4000, -1), 1, temperature=0.7, top_k=5, generator=gen(9))[:, -1]
    counts = torch.bincount(drawn, minlength=31).double()
    assert (counts[probs == 0] == 0).all()
    kept = probs > 0
    chi_square = ((counts[kept] - 4000 * probs[kept]) ** 2 / (4000 * probs[kept])).sum().item()
    assert chi_square < 18.5  # 4 degrees of freedom, p = 0.001


LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 0.0, 3.0, 0.1]])


def softmax(row) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def test_temperature_divides_logits_and_zero_is_greedy():
    got = sampling_distribution(LOGITS, Sampling(temperature=0.5))
    assert got[0].tolist() == pytest.approx(softmax([4.0, 2.0, 1.0, -2.0]))
    assert sampling_distribution(LOGITS, Sampling(temperature=0.0)).tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    cold = sampling_distribution(LOGITS, Sampling(temperature=1e-6))
    assert torch.isfinite(cold).all()


def test_top_k_keeps_k_even_when_there_are_ties():
    got = sampling_distribution(torch.tensor([[1.0, 1.0, 1.0, 0.0]]), Sampling(top_k=2))
    assert (got > 0).sum() == 2
    assert sampling_distribution(LOGITS, Sampling(top_k=2))[0].tolist() == pytest.approx([*softmax([2.0, 1.0]), 0, 0])
    assert torch.equal(sampling_distribution(LOGITS, Sampling(top_k=9)), sampling_distribution(LOGITS, Sampling()))


def test_top_p_keeps_the_token_that_crosses_and_at_least_one():
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    for top_p, kept in [(0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4)]:
        assert (keep_top_p(probs.double(), top_p) > 0).sum() == kept, top_p
    got = sampling_distribution(probs.log(), Sampling(top_p=0.7))
    assert got[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    shuffled = sampling_distribution(probs[:, [2, 0, 3, 1]].log(), Sampling(top_p=0.7))
    assert shuffled[0].tolist() == pytest.approx([0, 0.625, 0, 0.375])


def test_min_p_is_relative_to_the_best():
    probs = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    got = sampling_distribution(probs.log(), Sampling(min_p=0.31))
    assert got[0].tolist() == pytest.approx([0.625, 0.375, 0, 0])
    assert (sampling_distribution(probs.log(), Sampling(min_p=1.0)) > 0).sum() == 1


def test_filters_apply_after_temperature_and_one_after_the_other():
    # At temperature 2 the second token falls inside top_p = 0.8 of what top_k = 3 left.
    logits = torch.tensor([[4.0, 2.0, 0.0, -1.0]])
    got = sampling_distribution(logits, Sampling(temperature=2.0, top_k=3, top_p=0.8))
    assert got[0].tolist() == pytest.approx([*softmax([2.0, 1.0]), 0, 0])


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_once():
    seen = torch.tensor([[0, 3, 0], [2, 2, 1]])
    got = penalise_seen(LOGITS, seen, 2.0)
    assert got.tolist() == [[1.0, 1.0, 0.5, -2.0], [0.0, 0.0, 1.5, pytest.approx(0.1)]]
    real = torch.tensor([[False, True, False], [True, True, True]])
    assert penalise_seen(LOGITS, seen, 2.0, real)[0].tolist() == [2.0, 1.0, 0.5, -2.0]


def test_repetition_penalty_ignores_padding_and_counts_new_tokens():
    model = make()
    prompts = [[3, 1, 4, 1, 5], [9]]
    got = generate(model, prompts, 8, temperature=0.0, repetition_penalty=1e6)
    for prompt, row in zip(prompts, got, strict=True):
        assert row == generate(model, prompt, 8, temperature=0.0, repetition_penalty=1e6)
        assert len(set(row[len(prompt) :])) == 8


@pytest.mark.interop
@pytest.mark.parametrize("options", [{}, {"repetition_penalty": 1.7}])
def test_greedy_equals_transformers(options, tmp_path):
    transformers = pytest.importorskip("transformers", reason="its generate is the peer")
    from llmcore.model import save_pretrained

    model = Transformer(config(tie_embeddings=False), gen()).eval()
    save_pretrained(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = some_ids()
    expected = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0, **options
    )
    assert torch.equal(generate(model, ids, 20, temperature=0.0, **options), expected)


@pytest.mark.interop
@pytest.mark.parametrize(
    "options", [{"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}, {"temperature": 0.6, "top_k": 7, "top_p": 0.9}]
)
def test_filters_equal_transformers(options):
    pytest.importorskip("transformers", reason="its logit processors are the peer")
    from transformers.generation import logits_process as peer

    logits = torch.randn(6, 31, generator=gen())
    scores = logits / options.get("temperature", 1.0)
    warpers = {"top_k": peer.TopKLogitsWarper, "top_p": peer.TopPLogitsWarper, "min_p": peer.MinPLogitsWarper}
    for name, warper in warpers.items():
        if name in options:
            scores = warper(options[name])(None, scores)
    torch.testing.assert_close(sampling_distribution(logits, Sampling(**options)), scores.softmax(-1))
