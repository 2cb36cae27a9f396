"""Random windows and the trainer's sources."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.data import Batch, PackedSource, ShuffledSource, TokenFile, WindowSource, get_batch, write_tokens

TOKENS = np.arange(1, 101, dtype=np.uint16)


@pytest.mark.parametrize("kind", ["array", "tensor", "file"])
def test_targets_are_the_inputs_one_token_later(kind, tmp_path):
    tokens = {
        "array": lambda: TOKENS,
        "tensor": lambda: torch.from_numpy(TOKENS.astype(np.int64)),
        "file": lambda: write_tokens(tmp_path / "a.tokens", [TOKENS], 200),
    }[kind]()
    inputs, targets = get_batch(tokens, 64, 7, torch.Generator().manual_seed(0), "cpu")
    assert inputs.shape == targets.shape == (64, 7)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(inputs + 1, targets)


def test_every_start_is_drawn_about_equally_often_the_last_included():
    inputs, targets = get_batch(TOKENS[:11], 20_000, 7, torch.Generator().manual_seed(0))
    counts = torch.bincount(inputs[:, 0], minlength=5)[1:]
    assert len(counts) == 4
    # 5,000 each; 5 standard deviations of a binomial are 306. Leaving the last start out would make it 0.
    assert (counts - 5000).abs().max() < 310
    assert targets.max() == 11


def test_the_same_generator_gives_the_same_batch():
    one, two = (get_batch(TOKENS, 4, 5, torch.Generator().manual_seed(3))[0] for _ in range(2))
    other = get_batch(TOKENS, 4, 5, torch.Generator().manual_seed(4))[0]
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_too_few_tokens_are_refused_with_the_number_needed():
    with pytest.raises(ValueError, match="needs at least 101 tokens, got 100"):
        get_batch(TOKENS, 1, 100)
    with pytest.raises(ValueError, match="batch_size and context must be at least 1"):
        get_batch(TOKENS, 0, 5)
    get_batch(TOKENS, 1, 99)


@pytest.mark.parametrize("kind", [WindowSource, ShuffledSource])
def test_rows_depend_on_seed_step_and_row_only(kind):
    whole = kind(TOKENS, 6, 5, seed=1).batch(4, np.arange(6))
    parts = kind(TOKENS, 6, 5, seed=1)
    parts.batch(9, np.arange(6))
    assert torch.equal(whole.ids[[4, 1]], parts.batch(4, np.array([4, 1])).ids)
    assert not torch.equal(whole.ids, kind(TOKENS, 6, 5, seed=2).batch(4, np.arange(6)).ids)
    assert not torch.equal(whole.ids, kind(TOKENS, 6, 5, seed=1).batch(5, np.arange(6)).ids)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(1, 7), st.integers(1, 9))
def test_a_shuffled_epoch_gives_every_token_as_a_target_once(n_tokens, batch_size, context):
    if n_tokens <= context:
        return
    source = ShuffledSource(np.arange(n_tokens), batch_size, context, seed=0)
    seen: list[int] = []
    for step in range(-(-source.n_rows // batch_size)):
        seen += (
            source.batch(step, np.arange(batch_size)).targets[: source.n_rows - step * batch_size].flatten().tolist()
        )
    assert sorted(seen) == list(range(1, source.n_rows * context + 1))


def test_documents_in_a_window_are_told_apart():
    tokens = np.array([5, 6, 0, 7, 8, 9, 0, 4])
    batch = ShuffledSource(tokens, 1, 7, end_of_text=0, shuffle=False).batch(0, np.arange(1))
    assert batch.ids.tolist() == [[5, 6, 0, 7, 8, 9, 0]]
    assert batch.targets.tolist() == [[6, 0, -100, 8, 9, 0, -100]]
    assert batch.doc_ids.tolist() == [[0, 0, 0, 1, 1, 1, 1]]


def test_a_packed_source_gives_every_document_once_per_epoch():
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 50, size=size) for size in generator.integers(1, 30, size=40)]
    source = PackedSource.from_documents(documents, 4, 16, end_of_text=0, seed=3)
    n_steps = -(-source.n_rows // 4)
    found: dict[int, list[int]] = {}
    for step in range(n_steps):
        batch = source.batch(step, np.arange(min(4, source.n_rows - step * 4)))
        assert batch.ids.shape[1] == 16
        for ids, doc_ids, targets in zip(batch.ids, batch.doc_ids, batch.targets):
            for document in doc_ids.unique().tolist():
                if document >= 0:
                    found.setdefault(document, []).extend(ids[doc_ids == document].tolist())
            assert (targets[doc_ids == -1] == -100).all()
    assert {index: sorted(ids) for index, ids in found.items()} == {
        index: sorted([*document.tolist(), 0]) for index, document in enumerate(documents)
    }


def test_a_batch_moves_and_is_cut_as_one():
    batch = Batch(torch.arange(6).view(3, 2), torch.arange(6).view(3, 2), doc_ids=torch.zeros(3, 2, dtype=torch.long))
    part = batch.rows(1, 3).to("cpu")
    assert part.ids.tolist() == [[2, 3], [4, 5]]
    assert part.doc_ids.shape == (2, 2)
    assert part.positions is None


def test_token_files_serve_as_token_arrays(tmp_path):
    write_tokens(tmp_path / "a.tokens", [TOKENS], 200)
    source = WindowSource(TokenFile(tmp_path / "a.tokens"), 2, 5)
    assert source.batch(0, np.arange(2)).ids.dtype == torch.int64
