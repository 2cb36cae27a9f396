"""Beam search against all continuations, contrastive search against its formula, speculation against statistics."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from transformer_oracle import CONFIGS, config

from llmcore.generate import beam_search, contrastive_search, generate, speculative_generate
from llmcore.generate.beam import Hypotheses
from llmcore.generate.speculative import check_guesses
from llmcore.model import Transformer

TINY = {"vocab_size": 5, "width": 8, "n_heads": 2, "n_layers": 2, "ffn_width": 9, "init_std": 0.6}


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **options) -> Transformer:
    return Transformer(config(**(TINY | options)), gen(seed)).eval()


@torch.no_grad()
def log_prob(model: Transformer, prompt: list[int], new: tuple[int, ...]) -> float:
    logits = model(torch.tensor([[*prompt, *new]]))[0].log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(new))


def all_scores(model, prompt, n, stop, length_penalty):
    """Every continuation that ends at the stop id or at length n, with its score, best first."""
    found = {}
    for length in range(1, n + 1):
        for new in itertools.product(range(5), repeat=length):
            if stop not in new[:-1] and (length == n or new[-1] == stop):
                found[new] = log_prob(model, prompt, new) / length**length_penalty
    return sorted(found.items(), key=lambda item: -item[1])


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_with_enough_beams_the_result_is_the_optimum(length_penalty):
    model, prompts = make(n_layers=1), [[1, 2], [4, 0]]
    results = beam_search(model, prompts, 3, n_beams=130, length_penalty=length_penalty, stop=3, return_all=True)
    for prompt, result in zip(prompts, results, strict=True):
        expected = all_scores(model, prompt, 3, stop=3, length_penalty=length_penalty)
        assert len(result) == len(expected)
        for (score, ids), (best, value) in list(zip(result, expected))[:5]:
            assert tuple(ids) == best
            assert score == pytest.approx(value, abs=1e-4)


def test_length_penalty_changes_what_wins():
    model = make(seed=3)
    lengths = [len(beam_search(model, [1, 2], 4, n_beams=200, length_penalty=p, stop=3)) for p in (-1.0, 4.0)]
    assert lengths[0] < lengths[1]


def test_one_beam_is_greedy_and_more_are_no_worse():
    model = Transformer(CONFIGS["gqa"], gen()).eval()
    ids = torch.randint(0, 31, (2, 6), generator=gen(1))
    assert torch.equal(beam_search(model, ids, 7, n_beams=1), generate(model, ids, 7, temperature=0.0))
    scores = [beam_search(model, ids, 7, n_beams=n, return_all=True)[0][0][0] for n in (1, 8)]
    assert scores[1] >= scores[0]


@pytest.mark.parametrize("name", ["plain", "learned-post", "mla"])
def test_beams_of_prompts_of_different_lengths_equal_each_alone(name):
    model = Transformer(CONFIGS[name], gen()).eval()
    prompts = [[3, 1, 4, 1, 5], [9]]
    assert beam_search(model, prompts, 5, n_beams=3) == [beam_search(model, prompt, 5, n_beams=3) for prompt in prompts]


def test_beam_results_keep_the_form_of_the_prompt():
    model = make()
    row = beam_search(model, torch.tensor([1, 2]), 3, stop=3)
    assert row.ndim == 1
    assert beam_search(model, torch.tensor([[1, 2]]), 3, stop=3).tolist() == [row.tolist()]
    assert beam_search(model, [1, 2], 0) == [1, 2]
    with refused(match="n_beams must be at least 1, got 0"):
        beam_search(model, [1], 2, n_beams=0)


def test_a_search_ends_when_no_running_beam_can_win():
    pool = Hypotheses(n_beams=2, length_penalty=1.0)
    pool.add(-1.0, [1, 3])
    assert not pool.is_settled(-50.0, 2, 10)
    pool.add(-4.0, [3])
    assert pool.is_settled(-50.0, 2, 10)  # at best -50 / 10 = -5
    assert not pool.is_settled(-30.0, 2, 10)  # may reach -3
    assert Hypotheses(2, 1.0).is_settled(-float("inf"), 2, 10)


@torch.no_grad()
def contrastive_oracle(model, prompt, n, top_k, alpha):
    ids = list(prompt)
    for _ in range(n):
        hidden = model.hidden(torch.tensor([ids]))[0]
        probs = model.logits(hidden[None])[0, -1].softmax(-1)
        scores = {}
        for token in probs.topk(top_k).indices.tolist():
            state = model.hidden(torch.tensor([[*ids, token]]))[0, -1]
            similarity = max(F.cosine_similarity(state, past, dim=0).item() for past in hidden)
            scores[token] = (1 - alpha) * probs[token].item() - alpha * similarity
        ids.append(max(scores, key=scores.get))
    return ids


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_contrastive_search_equals_its_formula(alpha):
    model = Transformer(CONFIGS["plain"], gen()).eval()
    prompts = [[3, 1, 4], [9]]
    got = contrastive_search(model, prompts, 6, top_k=3, alpha=alpha)
    assert got == [contrastive_oracle(model, prompt, 6, 3, alpha) for prompt in prompts]


def test_contrastive_search_without_its_penalty_is_greedy():
    model = Transformer(CONFIGS["mla"], gen()).eval()
    ids = torch.randint(0, 31, (2, 4), generator=gen(1))
    assert torch.equal(contrastive_search(model, ids, 6, alpha=0.0), generate(model, ids, 6, temperature=0.0))
    with refused(match=r"alpha must be in \[0, 1\], got 2.0"):
        contrastive_search(model, ids, 2, alpha=2.0)
    with refused(match=r"top_k must be in 1..31, got 0"):
        contrastive_search(model, ids, 2, top_k=0)


def chi_square(counts: dict, probs: dict, n: int) -> float:
    return sum((counts.get(key, 0) - n * p) ** 2 / (n * p) for key, p in probs.items())


def joint(target_rows, tokens):
    p = 1.0
    for row, token in zip(target_rows, tokens):
        p *= row[token].item()
    return p


def test_checked_guesses_are_distributed_as_the_target():
    # Independent rows suffice: what stands, and what follows, must be the target's at each position.
    n, target = 3000, torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.5, 0.25, 0.25]])
    guess = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])
    generator, counts = gen(), {}
    for _ in range(n):
        tokens = torch.multinomial(guess, 1, generator=generator)[:, 0]
        stand, final = check_guesses(target, guess, tokens, generator)
        text = (*tokens[:stand].tolist(), final.item())
        # Continue from the target where the check ended early, as the next rounds would.
        for row in range(len(text), 3):
            text = (*text, torch.multinomial(target[row], 1, generator=generator).item())
        counts[text] = counts.get(text, 0) + 1
    probs = {text: joint(target, text) for text in itertools.product(range(3), repeat=3)}
    assert chi_square(counts, probs, n) < 54.1  # 26 degrees of freedom, p = 0.001


def test_that_statistic_catches_always_accepting():
    n, target, guess = 6000, torch.tensor([[0.6, 0.3, 0.1]]), torch.tensor([[0.5, 0.35, 0.15]])
    tokens = torch.multinomial(guess[0], n, replacement=True, generator=gen()).tolist()
    counts = {(token,): tokens.count(token) for token in range(3)}
    probs = {(token,): target[0, token].item() for token in range(3)}
    assert chi_square(counts, probs, n) > 13.8  # 2 degrees of freedom, p = 0.001


def test_speculative_texts_are_distributed_as_the_models_own():
    model, draft = make(0, n_layers=1), make(1, n_layers=1)
    prompt, n = [1, 2], 300
    options = {"temperature": 0.8, "top_k": 3}
    generator, counts, tally = gen(), {}, {}
    rows = speculative_generate(
        model, draft, [prompt] * n, 2, n_guesses=1, generator=generator, counts=tally, **options
    )
    for row in rows:
        counts[tuple(row[2:])] = counts.get(tuple(row[2:]), 0) + 1

    from llmcore.generate import Sampling, sampling_distribution

    with torch.no_grad():
        first = sampling_distribution(model(torch.tensor([prompt]))[:, -1], Sampling(**options))[0]
        probs = {}
        for a in range(5):
            second = sampling_distribution(model(torch.tensor([[*prompt, a]]))[:, -1], Sampling(**options))[0]
            probs |= {(a, b): (first[a] * second[b]).item() for b in range(5)}
    assert set(counts) <= {key for key, p in probs.items() if p > 0}
    positive = {key: p for key, p in probs.items() if p > 0}
    assert chi_square(counts, positive, n) < 26.1  # 8 degrees of freedom, p = 0.001
    assert 0 < tally["accepted"] < tally["guessed"]


@pytest.mark.parametrize("name", ["plain", "window", "learned-post", "mla", "gemma-like", "alibi"])
@pytest.mark.parametrize("n_guesses", [1, 4])
def test_greedy_speculation_equals_greedy(name, n_guesses):
    model = Transformer(CONFIGS[name], gen(0)).eval()
    draft = Transformer(config(n_layers=1, window=3), gen(0)).eval()
    prompts = [[3, 1, 4, 1, 5], [9]]
    counts: dict[str, int] = {}
    got = speculative_generate(model, draft, prompts, 12, n_guesses=n_guesses, temperature=0.0, counts=counts)
    assert got == generate(model, prompts, 12, temperature=0.0)
    assert counts["checks"] <= 24


def test_a_model_that_guesses_for_itself_is_always_right():
    model, counts = Transformer(CONFIGS["plain"], gen(0)).eval(), {}
    speculative_generate(model, model, [1, 2, 3], 15, n_guesses=4, generator=gen(), counts=counts)
    assert counts == {"guessed": 12, "accepted": 12, "checks": 3}


def test_speculation_stops_where_it_should_and_repeats_under_a_seed():
    model, draft = Transformer(CONFIGS["plain"], gen(0)).eval(), Transformer(config(n_layers=1), gen(1)).eval()
    texts = [speculative_generate(model, draft, [1, 2, 3], 12, generator=gen(5)) for _ in range(2)]
    assert texts[0] == texts[1]
    stop = texts[0][7]
    stopped = speculative_generate(model, draft, [1, 2, 3], 12, generator=gen(5), stop=stop)
    assert stopped == texts[0][: texts[0].index(stop, 3) + 1]


def test_models_of_different_vocabularies_are_refused():
    with refused(match="must share a vocabulary, got 31 and 5"):
        speculative_generate(Transformer(CONFIGS["plain"]), make(), [1], 2)
    with refused(match="n_guesses must be at least 1, got 0"):
        speculative_generate(make(), make(), [1], 2, n_guesses=0)
