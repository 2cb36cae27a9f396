"""What the generic tests do not see: the worked solutions against full-size peers, and promises of the docstrings about cases."""

from __future__ import annotations

import time
from itertools import pairwise, product

import pytest

from grader.course import load
from grader.exercise import Case, Rng
from llmcore.text import python_documentation
from llmcore.tokenizer import BPETokenizer

CHAPTER = load("01_tokenizer_unicode")
SPECIAL = ["the", "<e>"]


def solution(name: str):
    return CHAPTER.namespace(CHAPTER.exercises[name])[name]


def cases(name: str, seed: int) -> list[Case]:
    return [item for item in CHAPTER.exercises[name].cases(Rng(seed)) if isinstance(item, Case)]


def decoded(decode, data: bytes):
    try:
        return decode(data)
    except ValueError:
        return None


def python_decoded(data: bytes) -> list[int]:
    return [ord(character) for character in data.decode("utf-8")]


def test_the_decoder_agrees_with_python_on_all_pairs_and_on_the_edges_of_longer_sequences():
    decode = solution("utf8_decode")
    edges = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xFF)
    sequences = [bytes(pair) for pair in product(range(256), repeat=2)]
    sequences += [bytes((lead, *tail)) for lead in range(0xE0, 0x100) for tail in product(edges, repeat=3)]
    wrong = [data.hex() for data in sequences if decoded(decode, data) != decoded(python_decoded, data)]
    assert wrong == []


def test_training_and_encoding_agree_with_the_library_and_take_seconds_not_minutes():
    text = python_documentation()[:100_000]
    begin = time.perf_counter()
    vocab, merges = solution("train_bpe")(text, 258 + 500, SPECIAL)
    assert time.perf_counter() - begin < 20, "100 kB and 500 merges: incremental counts take well under a second"
    peer = BPETokenizer.train([text], 258 + 500, SPECIAL)
    assert merges == peer.merges
    assert vocab == peer.vocab
    assert solution("encode")(text, vocab, merges, SPECIAL) == peer.encode(text)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_vocabulary_to_encode_with_holds_no_bytes_twice(seed):
    for case in cases("encode", seed):
        tokens = list(case.args[1].values())
        assert len(set(tokens)) == len(tokens), case.label


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_merges_to_encode_with_are_made_of_tokens_made_before(seed):
    for case in cases("encode", seed):
        made = {bytes([byte]) for byte in range(256)}
        for left, right in case.args[2]:
            assert left in made, case.label
            assert right in made, case.label
            made.add(left + right)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_segmentation_case_has_two_best_ways(seed):
    for case in cases("viterbi_segment", seed):
        word, log_probs = case.args
        if case.raises is None:
            first, last = best_sum_and_ways(word, log_probs)
            assert last == 1, f"{case.label}: {last} ways reach the best sum {first}"


def best_sum_and_ways(word: str, log_probs: dict[str, float]) -> tuple[float, int]:
    best: list[tuple[float, int]] = [(0.0, 1)]
    for end in range(1, len(word) + 1):
        reached = [
            (best[start][0] + log_probs[word[start:end]], best[start][1])
            for start in range(end)
            if word[start:end] in log_probs and best[start][1]
        ]
        top = max((total for total, _ in reached), default=0.0)
        best.append((top, sum(ways for total, ways in reached if total >= top - 1e-9)))
    return best[-1]


def test_a_tie_of_equal_counts_is_among_the_training_cases_for_every_seed():
    for seed in (1, 2, 3):
        ties = [case for case in cases("train_bpe", seed) if case.label.startswith("equally frequent")]
        assert len(ties) >= 6
        assert all(a.args != b.args for a, b in pairwise(ties))
