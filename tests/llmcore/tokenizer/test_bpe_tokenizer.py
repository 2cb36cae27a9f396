"""BPETokenizer: training, ids, special tokens, streams, files, and what it refuses."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refused import refused

from llmcore.text import python_documentation, same_text
from llmcore.tokenizer import GPT2_PATTERN, PATTERNS, BPETokenizer

END = "<|endoftext|>"
CORPUS = END.join(same_text().values()) + python_documentation()[:60_000]
BYTES = {index: bytes([index]) for index in range(256)}


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train([CORPUS], 700, [END, "<|pad|>"])


def test_ids_are_special_tokens_then_bytes_then_merges(tokenizer):
    assert len(tokenizer) == len(tokenizer.vocab) == 700
    assert list(tokenizer.vocab) == list(range(700))
    assert tokenizer.vocab[0] == END.encode()
    assert tokenizer.vocab[1] == b"<|pad|>"
    assert [tokenizer.vocab[2 + byte] for byte in range(256)] == [bytes([byte]) for byte in range(256)]
    assert [tokenizer.vocab[258 + rank] for rank in range(442)] == [left + right for left, right in tokenizer.merges]


def test_special_tokens_are_never_split_counted_or_merged(tokenizer):
    assert not any(b"<|" in left + right for left, right in tokenizer.merges)
    assert tokenizer.encode(f"{END}{END}<|pad|>") == [0, 0, 1]
    assert tokenizer.decode([0, 1]) == END + "<|pad|>"
    assert 0 not in tokenizer.encode(END, allow_special=False)
    assert tokenizer.decode(tokenizer.encode(END, allow_special=False)) == END


def test_the_longest_special_token_wins():
    tokenizer = BPETokenizer.train(["x"], 300, ["<e>", "<e><e>", "a|b"])
    assert tokenizer.encode("<e><e><e>a|b") == [1, 0, 2]


def test_a_special_token_of_one_letter_is_not_that_byte():
    tokenizer = BPETokenizer.train(["banana bandana"], 270, ["a", "é"])
    assert tokenizer.encode("aéb") == [0, 1, 2 + ord("b")]
    assert tokenizer.encode("a", allow_special=False) == [2 + ord("a")]
    same = BPETokenizer.from_merges(tokenizer.vocab, tokenizer.merges, {"a": 0, "é": 1})
    assert same.encode("aéb a") == tokenizer.encode("aéb a")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", "a", "a   b\n\n  c ", "e\u0301", "ﬁ", "İ", "👩‍👩‍👧", "\0", "\u3000\r\n"])
def test_nothing_is_normalised_or_collapsed(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_character_over_several_tokens_is_decoded_whole(tokenizer):
    ids = [2 + byte for byte in "こ".encode()]
    assert tokenizer.decode(ids) == "こ"
    assert tokenizer.decode(ids[:2]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:2]) == "こ".encode()[:2]


def test_arrays_and_tensors_are_decoded(tokenizer):
    np = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    ids = tokenizer.encode("numbers")
    assert tokenizer.decode(np.array(ids)) == tokenizer.decode(torch.tensor(ids)) == "numbers"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([END, END[:5], END[5:], "line one\n", "two ", "汉字，", " \n", "x"]), max_size=30),
    st.integers(1, 7),
)
def test_a_stream_has_the_ids_of_the_joined_text(tokenizer, parts, size):
    text = "".join(parts)
    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(tokenizer.encode_iterable(chunks)) == tokenizer.encode(text)


def test_a_stream_is_encoded_as_it_comes(tokenizer):
    read = 0

    def lines():
        nonlocal read
        for _ in range(10_000):
            read += 1
            yield "a line of a long text\n"

    next(tokenizer.encode_iterable(lines()))
    assert read < 2000


def test_batches_equal_single_texts(tokenizer):
    texts = list(same_text().values()) + ["", END]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_long_texts_are_cut_without_a_trace(tokenizer, monkeypatch):
    expected = tokenizer.encode(CORPUS)
    monkeypatch.setattr("llmcore.tokenizer.bpe_tokenizer._PIECE_CHARS", 1000)
    assert tokenizer.encode(CORPUS) == expected


def test_files_lists_and_texts_train_alike(tmp_path):
    halves = [CORPUS[:40_000], CORPUS[40_000:80_000]]
    for number, half in enumerate(halves):
        (tmp_path / f"{number}.txt").write_text(half, encoding="utf-8", newline="")
    paths = [tmp_path / "0.txt", tmp_path / "1.txt"]
    expected = BPETokenizer.train(halves, 400, [END]).merges
    assert BPETokenizer.train(paths, 400, [END]).merges == expected
    assert BPETokenizer.train(list(map(str, paths)), 400, [END]).merges == expected
    assert BPETokenizer.train(iter(halves), 400, [END]).merges == expected
    assert BPETokenizer.train(str(paths[0]), 400, [END]).merges == BPETokenizer.train(halves[:1], 400, [END]).merges


@pytest.mark.slow
def test_processes_count_as_one_does():
    pattern = r"\p{L}+|\p{N}+"
    assert BPETokenizer.train([CORPUS], 400, [END], pattern, num_workers=2).merges == (
        BPETokenizer.train([CORPUS], 400, [END], pattern).merges
    )


def test_training_stops_when_no_pair_is_left():
    assert BPETokenizer.train(["abab"], 1000).merges == [(b"a", b"b"), (b"ab", b"ab")]
    assert BPETokenizer.train([END], 1000, [END]).merges == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["x"], 256, ["<a>"]), r"at least 257 \(1 special tokens and 256 bytes\), got 256"),
        (([], 300), "holds no text"),
        (([""], 300), "holds no text"),
        ((["x"], 300, ["<a>", "<a>"]), "more than once"),
        ((["x"], 300, [], "("), "not a regular expression"),
        (([3], 300), "str or Path"),
    ],
)
def test_training_refuses_what_cannot_be_meant(arguments, message):
    with refused(message):
        BPETokenizer.train(*arguments)


def test_training_names_bad_files_and_bad_options(tmp_path):
    (tmp_path / "latin.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    with refused(r"latin\.txt' is not UTF-8 at byte 3"):
        BPETokenizer.train(tmp_path / "latin.txt", 300)
    with pytest.raises(FileNotFoundError, match="pass it in a list"):
        BPETokenizer.train("some text to train on", 300)
    with refused("engine must be one of"):
        BPETokenizer.train(["x"], 300, engine="fast")
    with refused("num_workers"):
        BPETokenizer.train(["x"], 300, num_workers=0)
    with refused(r"U\+D800"):
        BPETokenizer.train(["a\ud800"], 300)


def test_unknown_ids_and_lone_surrogates_are_named(tokenizer):
    with refused(r"unknown id 700 at position 1; the vocabulary has 700 ids up to 699"):
        tokenizer.decode([5, 700])
    with refused("unknown id -1"):
        tokenizer.decode([-1])
    with refused("surrogate"):
        tokenizer.encode("a\udfff")


@pytest.mark.parametrize(
    ("vocab", "merges", "message"),
    [
        (BYTES, [(b"a", b"b")], r"merge 0 .* needs the token b'ab'"),
        (BYTES | {256: b"abc"}, [(b"ab", b"c")], "needs the token b'ab'"),
        (BYTES | {256: b"ab", 257: b"ab"}, [(b"a", b"b")], "ids 256 and 257 both stand for"),
        (BYTES | {256: b"ab"}, [(b"a", b"b"), (b"a", b"b")], "listed twice"),
        (BYTES | {256: b""}, [], "must not be empty"),
    ],
)
def test_merges_that_do_not_match_the_vocabulary_are_refused(vocab, merges, message):
    with refused(message):
        BPETokenizer.from_merges(vocab, merges)


def test_from_merges_keeps_ids_and_adds_missing_special_tokens():
    vocab = {index + 5: bytes([index]) for index in range(256)} | {2: b"ab", 4: b"<s>"}
    tokenizer = BPETokenizer.from_merges(vocab, [(b"a", b"b")], ["<s>", "</s>"])
    assert tokenizer.encode("<s>ab</s>") == [4, 2, 261]


def test_a_small_vocabulary_names_the_byte_it_lacks():
    vocab = dict(enumerate([b" ", b"a", b"c", b"e", b"h", b"t", b"th", b" c", b" a", b"the", b" at"]))
    merges = [(b"t", b"h"), (b" ", b"c"), (b" ", b"a"), (b"th", b"e"), (b" a", b"t")]
    tokenizer = BPETokenizer.from_merges(vocab, merges)
    assert tokenizer.encode("the cat ate") == [9, 7, 1, 5, 10, 3]
    with refused("byte b'z' of the word"):
        tokenizer.encode("zoo")


def same_behaviour(first: BPETokenizer, second: BPETokenizer) -> bool:
    text = CORPUS[:5000] + "e\u0301 12345 camelCase's"
    return first.encode(text) == second.encode(text) and first.vocab == second.vocab and first.merges == second.merges


@pytest.mark.parametrize("pattern", [GPT2_PATTERN, "o200k", r"\p{L}+", (r"\p{N}", GPT2_PATTERN)])
@pytest.mark.parametrize("special", [[END], ["a", " ", "Ġ", "\n é"]])
def test_a_reloaded_tokenizer_behaves_as_the_saved_one(tmp_path, pattern, special):
    tokenizer = BPETokenizer.train([CORPUS[:20_000]], 400, special, pattern)
    tokenizer.normalization = "NFC"
    tokenizer.save(tmp_path / "tokenizer.json")
    again = BPETokenizer.load(tmp_path / "tokenizer.json")
    assert same_behaviour(tokenizer, again)
    assert vars(again).keys() == vars(tokenizer).keys()
    assert (again.pattern, again.special_tokens) == (tokenizer.pattern, tokenizer.special_tokens)
    assert (again.normalization, again.whole_words) == ("NFC", False)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("name", PATTERNS)
def test_tokenizer_json_comes_back(tmp_path, name):
    tokenizer = BPETokenizer.train([CORPUS[:20_000]], 400, [END], name)
    tokenizer.to_tokenizer_json(tmp_path / "tokenizer.json")
    again = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    assert same_behaviour(tokenizer, again)
    assert again.special_tokens == tokenizer.special_tokens


def test_tiktoken_files_come_back(tmp_path, tokenizer):
    tokenizer.to_tiktoken(tmp_path / "ranks.tiktoken")
    again = BPETokenizer.from_tiktoken(tmp_path / "ranks.tiktoken", tokenizer.special_tokens, GPT2_PATTERN)
    assert same_behaviour(tokenizer, again)


def test_a_rank_file_whose_token_no_pair_makes_merges_as_tiktoken_does(tmp_path):
    ranks = [bytes([byte]) for byte in range(256)] + [b"ab", b"bc", b"abcd", b"cd"]
    lines = [f"{__import__('base64').b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks)]
    (tmp_path / "odd.tiktoken").write_text("\n".join(lines))
    tokenizer = BPETokenizer.from_tiktoken(tmp_path / "odd.tiktoken", ["<s>"], GPT2_PATTERN)
    assert tokenizer.encode("abcd") == [258]  # a word that is a token
    assert tokenizer.encode("abcde<s>") == [258, ord("e"), 260]


def test_files_of_another_kind_are_refused_by_name(tmp_path, tokenizer):
    path = tmp_path / "file"
    tokenizer.to_tokenizer_json(path)
    with refused("use from_tokenizer_json"):
        BPETokenizer.load(path)
    document = json.loads(path.read_text())

    def refuses(change, message):
        changed = json.loads(json.dumps(document))
        change(changed)
        path.write_text(json.dumps(changed))
        with refused(message):
            BPETokenizer.from_tokenizer_json(path)

    refuses(lambda d: d.update(model={"type": "Unigram", "vocab": []}), "no BPE model")
    refuses(lambda d: d["model"].update(byte_fallback=True), "byte_fallback")
    refuses(lambda d: d["added_tokens"][0].update(lstrip=True), "lstrip")
    refuses(lambda d: d.update(normalizer={"type": "Lowercase"}), "Lowercase")
    refuses(lambda d: d.update(pre_tokenizer={"type": "Metaspace"}), "ByteLevel")
    refuses(lambda d: d["pre_tokenizer"]["pretokenizers"][-1].update(add_prefix_space=True), "add_prefix_space")
    refuses(lambda d: d["model"]["vocab"].update({"☃": 900}), "stands for no byte")
    refuses(lambda d: d["model"]["merges"].append(["x", "☃"]), "stands for no byte")
    path.write_text("[1]")
    with refused("not a tokenizer"):
        BPETokenizer.from_tokenizer_json(path)
    path.write_bytes(b"\xff{")
    with refused("not JSON"):
        BPETokenizer.load(path)
    path.write_text("YQ== 0\nnot base64\n")
    with refused("line 2"):
        BPETokenizer.from_tiktoken(path)
    path.write_text("")
    with refused("is empty"):
        BPETokenizer.from_tiktoken(path)


def test_a_damaged_file_says_what_it_lacks(tmp_path, tokenizer):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"version": 9}))
    with refused("version 9"):
        BPETokenizer.load(path)
    del document["merges"]
    path.write_text(json.dumps(document))
    with refused("lacks 'merges'"):
        BPETokenizer.load(path)


def test_formats_that_would_lie_are_not_written(tmp_path):
    clash = BPETokenizer.train(["x"], 300, ["a"])
    with refused("reads like the ordinary token"):
        clash.to_tokenizer_json(tmp_path / "t.json")
    backwards = BPETokenizer.from_merges(BYTES | {256: b"bc", 257: b"ab"}, [(b"a", b"b"), (b"b", b"c")])
    with refused("do not rise"):
        backwards.to_tiktoken(tmp_path / "t.tiktoken")


def test_normalisation_acts_between_special_tokens_only():
    tokenizer = BPETokenizer.from_merges(BYTES, [], ["e\u0301<"], normalization="NFC")
    assert tokenizer.encode("e\u0301e\u0301<") == [0xC3, 0xA9, 256]
    with refused("normalization must be"):
        BPETokenizer.from_merges(BYTES, [], normalization="nfc")
