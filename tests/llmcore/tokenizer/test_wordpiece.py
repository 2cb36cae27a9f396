"""WordPiece: what it merges, how it cuts, and what it loses."""

import random
from itertools import pairwise

import pytest
from refused import refused

from llmcore.text import python_documentation
from llmcore.tokenizer import WordPieceTokenizer
from llmcore.tokenizer.wordpiece import longest_match, merge_steps, split_characters, words_of


def naive_steps(words, num_merges, min_count=1):
    """Recount everything before each merge."""
    corpus = {word: list(split_characters(word)) for word in words}
    steps = []
    for _ in range(num_merges):
        single, pairs = {}, {}
        for word, pieces in corpus.items():
            for piece in pieces:
                single[piece] = single.get(piece, 0) + words[word]
            for pair in pairwise(pieces):
                pairs[pair] = pairs.get(pair, 0) + words[word]
        pairs = {pair: count for pair, count in pairs.items() if count >= min_count}
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair] / (single[pair[0]] * single[pair[1]]), pairs[pair], pair))
        steps.append(best)
        for pieces in corpus.values():
            at = 0
            while at < len(pieces) - 1:
                if (pieces[at], pieces[at + 1]) == best:
                    pieces[at : at + 2] = [best[0] + best[1].removeprefix("##")]
                at += 1
    return steps


@pytest.mark.parametrize("min_count", [1, 3])
def test_incremental_training_equals_recounting(min_count):
    rng = random.Random(4)
    for _ in range(30):
        words = {"".join(rng.choices("abc汉", k=rng.randint(1, 9))): rng.randint(1, 5) for _ in range(12)}
        assert [step.pair for step in merge_steps(words, 25, min_count)] == naive_steps(words, 25, min_count)


def test_it_disagrees_with_bpe_on_a_frequent_but_loose_pair():
    words = {"the": 10, "they": 10, "ta": 30, "ha": 30, "qu": 5}
    assert next(merge_steps(words, 1)).pair == ("q", "##u")


@pytest.mark.parametrize(
    ("word", "vocab", "pieces"),
    [
        ("unaffable", ["un", "##aff", "##able"], ["un", "##aff", "##able"]),
        ("unaffable", ["un", "una", "##aff", "##able", "##ffable"], ["una", "##ffable"]),
        ("unaffable", ["un", "una", "##aff", "##able"], ["[UNK]"]),  # greedy: 'una' leads nowhere
        ("aa", ["a"], ["[UNK]"]),  # an inner piece needs its mark
        ("", [], []),
    ],
)
def test_words_are_cut_by_the_longest_piece(word, vocab, pieces):
    assert longest_match(word, set(vocab)) == pieces


def test_words_that_are_too_long_are_unknown():
    assert longest_match("a" * 5, {"a", "##a"}, max_word_chars=5) == ["a"] + ["##a"] * 4
    assert longest_match("a" * 6, {"a", "##a"}, max_word_chars=5) == ["[UNK]"]


@pytest.mark.interop
def test_tokenizers_cuts_words_the_same_way():
    tokenizers = pytest.importorskip("tokenizers", reason="the peer of this test")
    text = python_documentation()[:30_000]
    ours = WordPieceTokenizer.train([text], 600, min_count=2)
    peer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(ours.vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    for word in [*set(words_of(python_documentation()[:60_000])), "汉", "☃", "a" * 101]:
        assert longest_match(word, ours.vocab) == peer.encode(word).tokens


def test_training_keeps_the_size_asked_for_and_special_tokens_whole(tmp_path):
    ours = WordPieceTokenizer.train([python_documentation()[:20_000]], 300, ["[UNK]", "[SEP]"], min_count=2)
    assert len(ours) == 300
    assert ours.encode("[SEP]") == [1]
    assert ours.decode(ours.encode("the module[SEP]")) == "the module [SEP]"
    ours.save(tmp_path / "w.json")
    again = WordPieceTokenizer.load(tmp_path / "w.json")
    assert vars(again).keys() == vars(ours).keys()
    assert again.encode("The standard library ☃") == ours.encode("The standard library ☃")


def test_bad_input_is_refused(tmp_path):
    with refused(r"at least 4 \(1 special tokens and 3 characters\), got 3"):
        WordPieceTokenizer.train(["abc"], 3)
    with refused("no word"):
        WordPieceTokenizer.train([" \n"], 10)
    with refused("unknown token"):
        WordPieceTokenizer({"a": 0})
    with refused("unknown id 9"):
        WordPieceTokenizer({"[UNK]": 0}).decode([9])
    (tmp_path / "x.json").write_text("{}")
    with refused("not written by"):
        WordPieceTokenizer.load(tmp_path / "x.json")
