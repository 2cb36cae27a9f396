"""Words, special tokens, and streams that may be cut."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from llmcore.tokenizer import pretokenize
from llmcore.tokenizer.pretokenize import PATTERNS, count_words, safe_pieces, split_special, words_of

LETTERS = [
    *"aZ'sStTlLrRvVeEmMdD  \n\n\r\t019/!.-_",
    "ſ",
    "é",
    "\u0301",
    "汉",
    "中",
    "。",
    "ǅ",
    "ʰ",
    "\u3000",
    "\u00a0",
    "😀",
    "½",
]
TEXTS = st.lists(st.sampled_from(LETTERS), max_size=40).map("".join) | st.text(max_size=30)
SPECIALS = ["<|end|>", "<|end|><|end|>", "a b", "\n", "s1"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", ["It", "'s", " 1234", " it", "'", "S", " camelCase", ".", "\n\n  ", " x"]),
        ("cl100k", ["It", "'s", " ", "123", "4", " it", "'S", " camelCase", ".\n\n", "  ", " x"]),
        ("qwen2", ["It", "'s", " ", "1", "2", "3", "4", " it", "'S", " camelCase", ".\n\n", "  ", " x"]),
        ("o200k", ["It's", " ", "123", "4", " it'S", " camel", "Case", ".\n\n", "  ", " x"]),
    ],
)
def test_patterns_cut_as_their_models_do(name, expected):
    text = "It's 1234 it'S camelCase.\n\n   x"
    assert words_of(text, PATTERNS[name]) == expected


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.sampled_from([*PATTERNS, r"\d+", r"[^\s]*", (r"\p{N}{1,3}", PATTERNS["gpt2"])]))
def test_words_joined_are_the_text(text, pattern):
    words = words_of(text, pretokenize.resolve_pattern(pattern))
    assert "".join(words) == text
    assert "" not in words


def test_special_tokens_are_literal_and_the_longest_wins():
    specials = ["<e>", "<e><e>", "a|b", "é+"]
    assert split_special("<e><e><e>a|b|é+", specials) == [
        (True, "<e><e>"),
        (True, "<e>"),
        (True, "a|b"),
        (False, "|"),
        (True, "é+"),
    ]


def test_special_tokens_are_not_counted():
    counts = count_words("<|end|>".join(["go on"] * 50), special_tokens=["<|end|>"])
    assert counts == {b"go": 50, b" on": 50}


def cut_anywhere(text, pattern, specials):
    """A mutant of `safe_pieces` that cuts where the buffer is full."""
    return [text[start : start + 7] for start in range(0, len(text), 7)]


def words_of_pieces(pieces, pattern, specials):
    words = []
    for piece in pieces:
        for is_special, part in split_special(piece, specials):
            words += [part] if is_special else words_of(part, pattern)
    return words


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([*LETTERS, *SPECIALS, "word one", "two\nthree", "汉字。很", "!\n/x", "x \ny"]), max_size=60
    ),
    st.sampled_from(list(PATTERNS)),
    st.sampled_from([[], SPECIALS[:1], SPECIALS]),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_pieces_of_a_stream_have_the_words_of_the_whole(parts, name, specials, size, chunk):
    text, pattern = "".join(parts), PATTERNS[name]
    chunks = (text[start : start + chunk] for start in range(0, len(text), chunk))
    pieces = list(safe_pieces(chunks, pattern, specials, piece_chars=size))
    assert "".join(pieces) == text
    assert words_of_pieces(pieces, pattern, specials) == words_of_pieces([text], pattern, specials)


def test_cutting_anywhere_would_be_noticed():
    rng = random.Random(0)
    noticed = 0
    for _ in range(50):
        text, pattern = "".join(rng.choices(LETTERS, k=40)), PATTERNS["gpt2"]
        noticed += words_of_pieces(cut_anywhere(text, pattern, []), pattern, []) != words_of(text, pattern)
    assert noticed > 40


@pytest.mark.parametrize("name", PATTERNS)
def test_ordinary_text_is_cut_into_small_pieces(name):
    for text in ("some words in lines\n" * 2000, "without any line end " * 2000, "汉字很多，一句一句。" * 2000):
        pieces = list(safe_pieces(pretokenize.slices(text, 100), PATTERNS[name], piece_chars=500))
        assert max(map(len, pieces)) < 1200
        assert len(pieces) > 20


def test_a_text_without_a_place_to_cut_is_held_and_searched_seldom():
    assert [len(piece) for piece in safe_pieces(["x" * 100] * 100, PATTERNS["gpt2"], piece_chars=100)] == [10_000]


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("a\r\nb汉😀\r".encode())
    assert "".join(pretokenize.read_text(path, block_bytes=3)) == "a\r\nb汉😀\r"


@pytest.mark.parametrize("block_bytes", [1, 4, 1000])
@pytest.mark.parametrize(("data", "offset"), [(b"abc\xff", 3), ("汉字".encode()[:-1], 3), (b"a" * 9 + b"\xe6\xb1z", 9)])
def test_the_first_byte_that_is_not_utf8_is_named(tmp_path, data, offset, block_bytes):
    path = tmp_path / "latin.txt"
    path.write_bytes(data)
    with refused(rf"latin\.txt' is not UTF-8 at byte {offset}:"):
        list(pretokenize.read_text(path, block_bytes=block_bytes))


def test_unreadable_sources_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*pass it in a list"):
        list(pretokenize.read_text(tmp_path / "absent.txt"))
    with refused("cannot read"):
        list(pretokenize.read_text(tmp_path))


def test_a_list_of_file_names_is_files_and_other_str_are_texts(tmp_path):
    first = tmp_path / "a.txt"
    first.write_text("x")
    assert list(pretokenize.sources_of(str(first))) == [first]
    assert list(pretokenize.sources_of([str(first), str(first)])) == [first, first]
    assert list(pretokenize.sources_of([first, "a text"])) == [first, "a text"]
    assert list(pretokenize.sources_of(iter([str(first)]))) == [str(first)]
    with refused("bytes"):
        list(pretokenize.sources_of([b"raw"]))


@pytest.mark.parametrize(
    ("specials", "message"),
    [(["a", "a"], "more than once"), ([""], "non-empty"), ("abc", "list of str"), ([1], "non-empty str")],
)
def test_bad_special_tokens_are_refused(specials, message):
    with refused(message):
        pretokenize.check_special_tokens(specials)


def test_bad_patterns_and_lone_surrogates_are_refused():
    with refused("not a regular expression"):
        pretokenize.resolve_pattern("(")
    with refused("empty list"):
        pretokenize.resolve_pattern([])
    with refused(r"U\+D800 after 'a'"):
        pretokenize.encode_utf8("a\ud800")
