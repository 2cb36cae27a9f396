"""Streams of text: every token once per pass, exact resuming, clear refusals."""

import numpy as np
import pytest
import torch

from llmcore.data import TextStream, stream
from llmcore.tokenizer import BPETokenizer

END = "<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return BPETokenizer.train(["one two three four five six seven. " * 5], 270, [END])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("one two three\nfour five\n" * 40)
    (tmp_path / "b.txt").write_text("漢字 six seven " * 60, encoding="utf-8")
    (tmp_path / "c.txt").write_text("")
    return tmp_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks a file, some of which end inside a character."""
    monkeypatch.setattr(stream, "BLOCK_BYTES", 50)


def test_rows_are_the_files_one_after_another_for_ever(folder, tokenizer):
    source = TextStream(folder, tokenizer, 2, 10, end_of_text=END)
    got = torch.cat([source.batch(0, np.arange(2)).targets.flatten() for _ in range(120)]).tolist()
    text = tokenizer.decode(got).rstrip("\ufffd")  # the last character may be cut
    first = (folder / "a.txt").read_text() + END + (folder / "b.txt").read_text(encoding="utf-8") + END + END
    assert len(text) > 1.5 * len(first)
    assert (first * 3)[len(tokenizer.decode(tokenizer.encode(first)[:1])) :].startswith(text)


@pytest.mark.parametrize("shuffle_rows", [0, 5])
@pytest.mark.parametrize("n_before", [1, 7, 60])
def test_a_stream_goes_on_exactly_where_its_state_was_taken(folder, tokenizer, shuffle_rows, n_before):
    def make():
        return TextStream(
            folder, tokenizer, 3, 8, end_of_text=END, document_masks=True, shuffle_rows=shuffle_rows, seed=2
        )

    whole, resumed, rows = make(), make(), np.arange(3)
    for _ in range(n_before):
        whole.batch(0, rows)
    resumed.load_state(whole.state())
    for _ in range(60):
        one, two = whole.batch(0, rows), resumed.batch(0, rows)
        assert torch.equal(one.ids, two.ids)
        assert torch.equal(one.targets, two.targets)
        assert torch.equal(one.doc_ids, two.doc_ids)


def test_the_pool_changes_the_order_of_rows_and_loses_none(folder, tokenizer):
    plain = TextStream(folder, tokenizer, 1, 8)
    mixed = TextStream(folder, tokenizer, 1, 8, shuffle_rows=6, seed=1)
    in_order = [tuple(plain.batch(0, np.arange(1)).ids[0].tolist()) for _ in range(30)]
    drawn = [tuple(mixed.batch(0, np.arange(1)).ids[0].tolist()) for _ in range(24)]
    assert drawn != in_order[:24]
    assert set(drawn) <= set(in_order)


def test_two_readers_with_different_rows_read_what_one_reads(folder, tokenizer):
    one = TextStream(folder, tokenizer, 4, 8).batch(0, np.arange(4))
    first, second = TextStream(folder, tokenizer, 4, 8), TextStream(folder, tokenizer, 4, 8)
    halves = torch.cat((first.batch(0, np.array([0, 1])).ids, second.batch(0, np.array([2, 3])).ids))
    assert torch.equal(one.ids, halves)


def test_bad_input_is_refused_by_name(tmp_path, tokenizer):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(ValueError, match=r"no text in .*empty\.txt"):
        TextStream(empty, tokenizer, 1, 4).batch(0, np.arange(1))
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"one two three\n" * 5 + b"\xc3(")
    with pytest.raises(ValueError, match=r"bad\.txt.* is not UTF-8 at byte 70"):
        TextStream(bad, tokenizer, 1, 99).batch(0, np.arange(1))
    with pytest.raises(ValueError, match="document_masks needs end_of_text"):
        TextStream(empty, tokenizer, 1, 4, document_masks=True)
    with pytest.raises(ValueError, match="not among its files"):
        TextStream(empty, tokenizer, 1, 4).load_state({"file": "other.txt"})
