"""The compiled twin: the same words, merges and ids as the plain Python it stands in for.

The first run on a machine compiles, which takes some ten seconds.
"""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.text import python_documentation, same_text
from llmcore.tokenizer import PATTERNS, BPETokenizer, bpe
from llmcore.tokenizer.pretokenize import words_of

pytestmark = pytest.mark.slow

END = "<|endoftext|>"
LETTERS = [
    *"aZ'sStTlLrRvVeEmMdDxyz  \n\n\r\t0129/!.-_",
    "ſ",
    "é",
    "\u0301",
    "汉",
    "中",
    "。",
    "ǅ",
    "ʰ",
    "\u3000",
    "😀",
    "½",
    "İ",
]
TEXTS = st.text(max_size=40) | st.lists(st.sampled_from(LETTERS), max_size=40).map("".join)


@pytest.fixture(scope="module")
def corpus():
    return END.join(same_text().values()) + python_documentation()[:100_000]


def cut(text: str, ends: list[int]) -> list[str]:
    data = text.encode()
    return [data[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize("name", ["gpt2", "cl100k", "qwen2", "o200k"])
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_scanners_cut_as_the_expressions_do(name, text):
    from llmcore.tokenizer._scan import word_ends

    ends = [int(end) for some in word_ends(text.encode(), PATTERNS[name], at_most=5) for end in some]
    assert cut(text, ends) == words_of(text, PATTERNS[name])


@pytest.mark.parametrize("name", ["gpt2", "cl100k", "qwen2", "o200k"])
def test_scanners_cut_random_strings_of_odd_characters(name):
    from llmcore.tokenizer._scan import word_ends

    rng = random.Random(name)
    for _ in range(3000):
        text = "".join(rng.choices(LETTERS, k=rng.randint(1, 12)))
        ends = [int(end) for some in word_ends(text.encode(), PATTERNS[name]) for end in some]
        assert cut(text, ends) == words_of(text, PATTERNS[name])


def test_a_scanner_for_another_pattern_is_noticed():
    text = "don't 12345 camelCase"
    assert len({tuple(words_of(text, PATTERNS[name])) for name in ("gpt2", "cl100k", "qwen2", "o200k")}) == 4


def learn_compiled(words: dict[bytes, int], num_merges: int, spread: int) -> list[bpe.Pair]:
    from llmcore.tokenizer._merge import learn_merges

    lengths = np.array([len(word) for word in words], dtype=np.int64)
    pool = np.frombuffer(b"".join(words), dtype=np.uint8).copy()
    counts = np.array(list(words.values()), dtype=np.int64)
    return learn_merges(pool, np.cumsum(lengths) - lengths, lengths, counts, num_merges, spread)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(b"ab\xc3c"), min_size=1, max_size=20).map(bytes),
        st.integers(1, 2**40),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 60),
    st.sampled_from([1, 2, 64]),
)
def test_merges_equal_the_plain_ones(words, num_merges, spread):
    assert learn_compiled(words, num_merges, spread) == bpe.learn_merges(words, num_merges)


def test_merges_of_many_words_equal_the_plain_ones():
    rng = random.Random(2)
    words = Counter(bytes(rng.choices(b"etaoin", [6, 5, 4, 3, 2, 1], k=rng.randint(1, 9))) for _ in range(5000))
    assert learn_compiled(words, 3000, 4) == bpe.learn_merges(words, 3000)


def smaller_pair_wins(words: dict[bytes, int], num_merges: int) -> list[bpe.Pair]:
    """A mutant: ties go to the smaller pair of bytes."""
    corpus, merges = {bpe.split_bytes(word): count for word, count in words.items()}, []
    while len(merges) < num_merges and (counts := bpe.count_pairs(corpus)):
        most = max(counts.values())
        merges.append(min(pair for pair, count in counts.items() if count == most))
        corpus = {bpe.merge_word(word, merges[-1]): count for word, count in corpus.items()}
    return merges


def test_those_words_catch_another_rule_for_ties():
    words = {b"abcabd": 3, b"bcd": 2, b"dab": 1}
    assert smaller_pair_wins(words, 5) != bpe.learn_merges(words, 5) == learn_compiled(words, 5, 64)


@pytest.mark.parametrize("name", [*PATTERNS, "custom"])
def test_training_on_texts_and_files_equals_plain_python(corpus, name, tmp_path):
    pattern = PATTERNS.get(name, r"\p{L}+|\p{N}{1,2}")
    expected = BPETokenizer.train([corpus], 900, [END], pattern, engine="python").merges
    assert BPETokenizer.train([corpus], 900, [END], pattern, engine="compiled").merges == expected
    path = tmp_path / "corpus.txt"
    path.write_text(corpus, encoding="utf-8", newline="")
    assert BPETokenizer.train(path, 900, [END], pattern, engine="compiled", num_workers=1).merges == expected


def test_large_texts_choose_the_compiled_twin(corpus, monkeypatch):
    monkeypatch.setattr("llmcore.tokenizer.training.COMPILED_FROM_CHARS", 50_000)
    monkeypatch.setattr("llmcore.tokenizer.training.bpe.learn_merges", None)
    BPETokenizer.train([corpus], 300, [END])
    with pytest.raises(TypeError):
        BPETokenizer.train([corpus[:100]], 300, [END])


@pytest.fixture(scope="module", params=[False, True], ids=["merged", "whole words"])
def twins(corpus, request):
    trained = BPETokenizer.train([corpus], 2000, [END])
    vocab = trained.vocab | ({9000: b" never merged", 9001: b"z" * 300} if request.param else {})
    pair = [BPETokenizer.from_merges(vocab, trained.merges, [END], whole_words=request.param) for _ in range(2)]
    pair[0].engine, pair[1].engine = "python", "compiled"
    return pair


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_ids_equal_the_plain_ones(twins, text):
    assert twins[1].encode(text) == twins[0].encode(text)


def test_ids_of_texts_that_fill_the_cache_equal_the_plain_ones(twins, monkeypatch):
    monkeypatch.setattr("llmcore.tokenizer._encode._MOST_ROWS", 1 << 12)
    rng = random.Random(3)
    text = " ".join("".join(rng.choices("etaoinshrdlu汉字", k=rng.randint(1, 12))) for _ in range(20_000))
    assert twins[1].encode(text) == twins[0].encode(text)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 128, 129, 5000])
def test_ids_of_long_words_equal_the_plain_ones(twins, length):
    rng = random.Random(length)
    for word in (" " * length, "z" * length, "ab" * length, "".join(rng.choices("etaoin", k=length)), "汉" * length):
        text = "x " + word + " never merged"
        assert twins[1].encode(text) == twins[0].encode(text)


def test_very_long_words_take_no_quadratic_time(twins):
    assert len(twins[1].encode("ab" * 500_000)) > 1000


def test_threads_give_the_ids_of_one(twins, corpus, monkeypatch):
    monkeypatch.setattr("llmcore.tokenizer.bpe_tokenizer._BATCH_CHARS", 5000)
    texts = [corpus[start : start + 3000] for start in range(0, len(corpus), 3000)]
    assert twins[1].encode_batch(texts, num_threads=3) == [twins[0].encode(text) for text in texts]
    assert twins[1].encode_batch(texts, num_threads=1) == [twins[0].encode(text) for text in texts]


def test_a_stream_has_the_ids_of_the_joined_text(twins, corpus):
    assert list(twins[1].encode_iterable(corpus[start : start + 50] for start in range(0, len(corpus), 50))) == (
        twins[0].encode(corpus)
    )


def test_small_work_loads_no_numba(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from llmcore.tokenizer import BPETokenizer; "
        "t = BPETokenizer.train(['some text'], 260); t.decode(t.encode('text')); "
        "assert 'numba' not in sys.modules and 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
