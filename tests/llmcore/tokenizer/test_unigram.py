"""Unigram: Viterbi and EM against every segmentation, training and round trips."""

import random
from itertools import combinations, pairwise
from math import exp, log

import pytest
from refused import refused

from llmcore.text import python_documentation, same_text
from llmcore.tokenizer import UnigramTokenizer
from llmcore.tokenizer.unigram import em_step, expected_counts, prune, seed_pieces, viterbi_segment, words_of


def segmentations(word, log_probs):
    """Every way to cut the word into pieces."""
    for number in range(len(word)):
        for cuts in combinations(range(1, len(word)), number):
            edges = [0, *cuts, len(word)]
            pieces = [word[start:end] for start, end in pairwise(edges)]
            if all(piece in log_probs for piece in pieces):
                yield pieces


def random_case(rng):
    word = "".join(rng.choices("abc", k=rng.randint(1, 9)))
    pieces = {word[s:e] for s in range(len(word)) for e in range(s + 1, len(word) + 1)}
    kept = sorted(piece for piece in pieces if len(piece) == 1 or rng.random() < 0.6)
    return word, {piece: log(rng.uniform(0.01, 1.0)) for piece in kept}


def test_viterbi_is_the_best_of_all_segmentations():
    rng = random.Random(6)
    for _ in range(200):
        word, log_probs = random_case(rng)
        best = max(segmentations(word, log_probs), key=lambda pieces: sum(log_probs[piece] for piece in pieces))
        assert viterbi_segment(word, log_probs) == best


def test_greedy_cutting_would_be_noticed():
    log_probs = {"a": -3.0, "b": -3.0, "c": -3.0, "ab": -1.0, "bc": -1.1, "abc": -9.0, "d": -5.0, "cd": -0.1}
    assert viterbi_segment("abcd", log_probs) == ["ab", "cd"]  # longest match would take abc and d


def test_a_word_without_segmentation_says_where_it_stops():
    with refused("from position 1"):
        viterbi_segment("ax", {"a": -1.0})
    assert viterbi_segment("", {"a": -1.0}) == []


def test_expected_counts_are_those_over_all_segmentations():
    rng = random.Random(7)
    for _ in range(100):
        word, log_probs = random_case(rng)
        weights = [(exp(sum(log_probs[p] for p in pieces)), pieces) for pieces in segmentations(word, log_probs)]
        total = sum(weight for weight, _ in weights)
        expected = {}
        for weight, pieces in weights:
            for piece in pieces:
                expected[piece] = expected.get(piece, 0.0) + weight / total
        counts, log_prob = expected_counts(word, log_probs)
        assert log_prob == pytest.approx(log(total), abs=1e-9)
        assert counts == pytest.approx(expected, abs=1e-9)


def test_every_round_of_em_makes_the_corpus_more_likely():
    words = {word: 1 + len(word) % 3 for word in words_of(python_documentation()[:4000])}
    log_probs = seed_pieces(words, 2000)
    likelihoods = []
    for _ in range(5):
        log_probs, likelihood = em_step(words, log_probs)
        likelihoods.append(likelihood)
        assert sum(map(exp, log_probs.values())) == pytest.approx(1.0)
    assert all(later > earlier for earlier, later in pairwise(likelihoods))


def test_pruning_keeps_characters_and_the_pieces_that_matter():
    words = {"abab": 10, "cd": 10, "acbd": 1}
    log_probs, _ = em_step(words, seed_pieces(words, 50))
    pruned = prune(words, log_probs, 6)
    assert set("abcd") <= set(pruned)
    assert len(pruned) == 6
    assert "cd" in pruned


def test_training_reaches_its_size_and_texts_come_back(tmp_path):
    text = python_documentation()[:15_000] + same_text()["Chinese"]
    tokenizer = UnigramTokenizer.train([text], 300, ["<unk>", "<s>"])
    assert len(tokenizer) == 300
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode("<s>") == [1]
    assert tokenizer.encode("☃") == [0]
    assert list(tokenizer.log_probs.values()) == sorted(tokenizer.log_probs.values(), reverse=True)
    tokenizer.save(tmp_path / "u.json")
    again = UnigramTokenizer.load(tmp_path / "u.json")
    assert vars(again).keys() == vars(tokenizer).keys()
    assert again.encode(text) == tokenizer.encode(text)


@pytest.mark.interop
def test_tokenizers_finds_segmentations_as_probable():
    tokenizers = pytest.importorskip("tokenizers", reason="the peer of this test")
    text = python_documentation()[:15_000]
    ours = UnigramTokenizer.train([text], 300)
    table = [("<unk>", -30.0), *ours.log_probs.items()]
    peer = tokenizers.Tokenizer(tokenizers.models.Unigram(table, unk_id=0, byte_fallback=False))
    for word in set(words_of(text)):
        theirs = peer.encode(word).tokens
        assert sum(ours.log_probs[p] for p in ours.segment(word)) == pytest.approx(
            sum(ours.log_probs[p] for p in theirs)
        )


def test_bad_input_is_refused(tmp_path):
    with refused(r"at least 4 \(1 special tokens and 3 characters\), got 3"):
        UnigramTokenizer.train(["abc"], 3)
    with refused("empty"):
        UnigramTokenizer.train([""], 10)
    with refused("keep_share"):
        UnigramTokenizer.train(["abc"], 10, keep_share=1.0)
    with refused("finite"):
        UnigramTokenizer({"a": float("-inf")})
    with refused("also a piece"):
        UnigramTokenizer({"a": -1.0}, ["a"])
    with refused("unknown id 7"):
        UnigramTokenizer({"a": -1.0}).decode([7])
    (tmp_path / "x.json").write_text("{}")
    with refused("not written by"):
        UnigramTokenizer.load(tmp_path / "x.json")
