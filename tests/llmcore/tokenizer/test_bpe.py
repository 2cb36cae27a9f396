"""The readable BPE: each rung of the ladder gives what the one below gives."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from llmcore.tokenizer import bpe

WORDS = st.dictionaries(st.binary(min_size=1, max_size=12), st.integers(1, 5), max_size=12)
FEW_LETTERS = st.dictionaries(
    st.lists(st.sampled_from(b"ab\xc3"), min_size=1, max_size=14).map(bytes), st.integers(1, 4), max_size=10
)


def naive_merges(words: dict[bytes, int], num_merges: int) -> list[bpe.Pair]:
    """Recount everything, replace, repeat: written apart from the code under test."""
    corpus = {word: [word[at : at + 1] for at in range(len(word))] for word in words}
    merges = []
    while len(merges) < num_merges:
        counts: dict[bpe.Pair, int] = {}
        for word, tokens in corpus.items():
            for at in range(len(tokens) - 1):
                pair = (tokens[at], tokens[at + 1])
                counts[pair] = counts.get(pair, 0) + words[word]
        if not counts:
            break
        best = sorted(counts, key=lambda pair: (counts[pair], pair))[-1]
        merges.append(best)
        for tokens in corpus.values():
            at = 0
            while at < len(tokens) - 1:
                if (tokens[at], tokens[at + 1]) == best:
                    tokens[at : at + 2] = [best[0] + best[1]]
                at += 1
    return merges


@settings(max_examples=150, deadline=None)
@given(WORDS | FEW_LETTERS, st.integers(0, 30))
def test_incremental_learning_equals_recounting(words, num_merges):
    expected = naive_merges(words, num_merges)
    assert bpe.learn_merges(words, num_merges) == expected
    assert [step.pair for step in bpe.merge_steps(words, num_merges)] == expected


def test_no_two_merges_make_the_same_bytes():
    rng = random.Random(1)
    for _ in range(200):
        words = Counter(bytes(rng.choices(b"ab", k=rng.randint(1, 24))) for _ in range(20))
        made = [left + right for left, right in bpe.learn_merges(words, 200)]
        assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ({b"banana": 1}, (b"n", b"a")),  # 2 an, 2 na: counted in the word as often as they occur, the greater wins
        ({b"aaaa": 1, b"bc": 2}, (b"a", b"a")),  # 3 aa, though they overlap
        ({b"xyxyxy": 1, b"ab": 2, b"cd": 3}, (b"x", b"y")),
        ({b"BAA": 1, b"AB": 1}, (b"B", b"A")),
        ({b"\xc3\xa9": 1, b"zz": 1}, (b"\xc3", b"\xa9")),  # raw bytes decide, not printable stand-ins
        ({b"\xad!": 1, b"\xacz": 1}, (b"\xad", b"!")),
    ],
)
def test_the_first_merge_shows_how_pairs_are_counted_and_ties_are_broken(words, first):
    assert bpe.learn_merges(words, 1) == [first]


def test_ties_compare_pairs_and_not_their_joined_bytes():
    words = {b"ABCD": 2, b"EF": 1}
    merges = bpe.learn_merges(words, 3)
    assert merges == [(b"C", b"D"), (b"B", b"CD"), (b"A", b"BCD")]
    assert bpe.rank_pairs({(b"BA", b"A"): 1, (b"B", b"AZ"): 1})[0][0] == (b"BA", b"A")


def test_a_step_shows_the_corpus_after_it_and_the_field_before_it():
    step = next(bpe.merge_steps({b"hug": 10, b"pug": 5}, 1, top=2))
    assert step.top_pairs == [((b"u", b"g"), 15), ((b"h", b"u"), 10)]
    assert step.words == {(b"h", b"ug"): 10, (b"p", b"ug"): 5}
    assert (step.number, step.count) == (1, 15)


@settings(max_examples=100, deadline=None)
@given(FEW_LETTERS, st.lists(st.sampled_from(b"ab\xc3"), min_size=1, max_size=300).map(bytes))
def test_long_words_are_encoded_as_short_ones(words, word):
    ranks = {pair: rank for rank, pair in enumerate(bpe.learn_merges(words, 40))}
    tokens = list(bpe.split_bytes(word))
    while pairs := [(ranks[pair], at) for at, pair in enumerate(pairwise(tokens)) if pair in ranks]:
        at = min(pairs)[1]
        tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
    assert bpe.encode_word(word, ranks) == tokens
    assert bpe._encode_long_word(word, ranks) == tokens


def test_encoding_goes_by_rank_where_longest_match_would_differ():
    ranks = {(b"b", b"c"): 0, (b"a", b"b"): 1}
    assert bpe.encode_word(b"abc", ranks) == [b"a", b"bc"]
    assert bpe.encode_word(b"Hello", {(b"l", b"l"): 0, (b"e", b"l"): 1}) == [b"H", b"e", b"ll", b"o"]


def test_merges_and_encoding_agree_on_the_training_words():
    words = Counter(b"the cat sat on the mat that the hat had".split())
    merges = bpe.learn_merges(words, 20)
    corpus = {bpe.split_bytes(word): word for word in words}
    for pair in merges:
        corpus = {bpe.merge_word(tokens, pair): word for tokens, word in corpus.items()}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    assert all(tuple(bpe.encode_word(word, ranks)) == tokens for tokens, word in corpus.items())


def test_compression_counts_bytes():
    assert bpe.compression_ratio("汉", [1]) == 3.0
    assert bpe.compression_ratio("a\ufffd", [1, 2]) == 2.0
    with refused("empty"):
        bpe.compression_ratio("", [])
