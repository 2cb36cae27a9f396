"""Token files: written whole or not at all, refused by name when damaged, made from text exactly."""

import errno
import os

import numpy as np
import pytest

from llmcore.data import TokenFile, tokenize_files, write_tokens
from llmcore.data.token_file import HEADER_BYTES, is_token_file, text_files
from llmcore.tokenizer import BPETokenizer

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["the cat sat on the mat. " * 5, "Grüße, 漢字"], 280, [END])


@pytest.mark.parametrize(("vocab_size", "dtype"), [(10, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (1 << 32, "<u4")])
def test_ids_come_back_in_the_smallest_type_that_holds_the_vocabulary(tmp_path, vocab_size, dtype):
    ids = [0, vocab_size - 1, 3]
    file = write_tokens(tmp_path / "x.tokens", [ids[:1], ids[1:], []], vocab_size, end_of_text=0, tokenizer_hash="abc")
    assert file[:].tolist() == ids
    assert file.tokens.dtype.str == dtype
    again = TokenFile(tmp_path / "x.tokens")
    again.verify()
    assert (again.vocab_size, again.end_of_text, again.tokenizer_hash, len(again)) == (vocab_size, 0, "abc", 3)
    with pytest.raises(ValueError, match="read-only"):
        again.tokens[0] = 1


def test_an_empty_token_file_is_a_token_file(tmp_path):
    assert len(write_tokens(tmp_path / "x.tokens", [], 10)) == 0


@pytest.mark.parametrize("ids", [[10], [-1], [0.5]])
def test_ids_outside_the_vocabulary_are_refused_and_leave_nothing(tmp_path, ids):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        write_tokens(tmp_path / "x.tokens", [[1, 2], ids], 10)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.tokens"
    write_tokens(path, [[1, 2, 3]], 10)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write token file .*x\.tokens.*No space left"):
        write_tokens(path, [[4]], 10)
    assert TokenFile(path)[:].tolist() == [1, 2, 3]
    assert [file.name for file in tmp_path.iterdir()] == ["x.tokens"]


def test_damaged_files_are_refused_by_name(tmp_path):
    path = tmp_path / "x.tokens"
    write_tokens(path, [np.arange(100)], 200)
    whole = path.read_bytes()

    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"x\.tokens.* must have 4296 bytes .* got 4295"):
        TokenFile(path)
    path.write_bytes(whole[:8] + b"\xff" * 8 + whole[16:])
    with pytest.raises(ValueError, match=r"x\.tokens.* damaged header"):
        TokenFile(path)
    path.write_bytes(b"some text")
    with pytest.raises(ValueError, match=r"x\.tokens.* is no token file"):
        TokenFile(path)
    flipped = bytearray(whole)
    flipped[HEADER_BYTES + 50] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"x\.tokens.* checksum"):
        TokenFile(path).verify()
    with pytest.raises(FileNotFoundError, match=r"nothing\.tokens"):
        TokenFile(tmp_path / "nothing.tokens")


def test_tokenized_files_equal_encoding_each_whole(tmp_path, tokenizer):
    texts = ["the cat\n\n sat  on the mat. " * 90, "Grüße, 漢字\n" * 30, "mat"]
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.txt").write_text(text, encoding="utf-8", newline="")
    file = tokenize_files(tmp_path, tokenizer, tmp_path / "all.tokens", end_of_text=END)
    end = tokenizer.special_tokens[END]
    assert file[:].tolist() == [index for text in texts for index in [*tokenizer.encode(text), end]]
    assert file.end_of_text == end
    file.require(tokenizer)
    with pytest.raises(ValueError, match="another tokenizer"):
        file.require(BPETokenizer.train(["dog"], 258))


@pytest.mark.slow
def test_worker_processes_change_nothing(tmp_path, tokenizer):
    for index in range(3):
        (tmp_path / f"{index}.txt").write_text("the cat sat. " * (index + 1))
    one = tokenize_files(tmp_path, tokenizer, tmp_path / "one.tokens", end_of_text=END)
    two = tokenize_files(tmp_path, tokenizer, tmp_path / "two.tokens", end_of_text=END, workers=2)
    assert one[:].tolist() == two[:].tolist()


def test_bad_text_is_refused_by_name(tmp_path, tokenizer):
    bad, out = tmp_path / "bad.txt", tmp_path / "out.tokens"
    bad.write_bytes(b"good \xff bad")
    with pytest.raises(ValueError, match=r"bad\.txt.* is not UTF-8 at byte 5"):
        tokenize_files(bad, tokenizer, out)
    bad.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no text in .*bad\.txt"):
        tokenize_files(bad, tokenizer, out, end_of_text=END)
    with pytest.raises(FileNotFoundError, match="missing"):
        tokenize_files(tmp_path / "missing", tokenizer, out)
    with pytest.raises(ValueError, match="no special token '<end>'"):
        tokenize_files(bad, tokenizer, out, end_of_text="<end>")
    assert not out.exists()


def test_a_folder_stands_for_its_text_files_in_order(tmp_path):
    for name in ("b.txt", "a.md", "c.bin", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [file.name for file in text_files(tmp_path)] == ["a.md", "b.txt", "d.txt"]
    assert [file.name for file in text_files([tmp_path / "c.bin", str(tmp_path / "b.txt")])] == ["c.bin", "b.txt"]


def test_token_files_are_known_by_their_first_bytes(tmp_path):
    (tmp_path / "text").write_text("hello")
    write_tokens(tmp_path / "tokens", [[1]], 2)
    assert [is_token_file(tmp_path / name) for name in ("text", "tokens", "none")] == [False, True, False]
