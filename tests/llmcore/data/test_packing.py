"""First-fit packing: nothing lost, nothing doubled, nothing seen across documents."""

import functools
import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.data import document_starts, pack_documents, plan_packing

documents_and_context = st.tuples(st.lists(st.lists(st.integers(1, 99), max_size=23), max_size=25), st.integers(1, 12))


def unpack(rows) -> dict[int, list[list[int]]]:
    """The pieces of each document, in the order of rows."""
    pieces: dict[int, list[list[int]]] = {}
    for ids, doc_ids in zip(rows.ids, rows.doc_ids):
        for document in dict.fromkeys(doc_ids.tolist()):
            if document >= 0:
                pieces.setdefault(document, []).append(ids[doc_ids == document].tolist())
    return pieces


@settings(max_examples=80, deadline=None)
@given(documents_and_context)
def test_every_token_lands_in_exactly_one_place(case):
    documents, context = case
    rows = pack_documents(documents, context)
    found = {index: sorted(functools.reduce(operator.iadd, parts, [])) for index, parts in unpack(rows).items()}
    assert found == {index: sorted(document) for index, document in enumerate(documents) if document}
    assert rows.ids.shape == rows.targets.shape == rows.doc_ids.shape == rows.positions.shape
    assert int((rows.doc_ids >= 0).sum()) == sum(map(len, documents))


@settings(max_examples=80, deadline=None)
@given(documents_and_context)
def test_every_token_but_the_first_of_a_document_is_predicted_once(case):
    documents, context = case
    rows = pack_documents(documents, context)
    expected = sorted(token for document in documents for token in document[1:])
    assert sorted(rows.targets[rows.targets != -100].tolist()) == expected
    inside = rows.doc_ids[:, :-1] == rows.doc_ids[:, 1:]
    real = inside & (rows.doc_ids[:, :-1] >= 0)
    assert torch.equal(rows.targets[:, :-1][real], rows.ids[:, 1:][real])


@settings(max_examples=80, deadline=None)
@given(documents_and_context)
def test_positions_count_from_zero_in_each_piece(case):
    documents, context = case
    rows = pack_documents(documents, context)
    for doc_ids, positions in zip(rows.doc_ids.tolist(), rows.positions.tolist()):
        for column, (document, position) in enumerate(zip(doc_ids, positions)):
            starts = column == 0 or doc_ids[column - 1] != document
            if document >= 0:
                assert position == (0 if starts else positions[column - 1] + 1)


def slow_first_fit(lengths: list[int], context: int) -> list[tuple[int, int]]:
    """(row, column) of each piece, by looking at every row."""
    used: list[int] = []
    places = []
    for length in lengths:
        while length > 0:
            size = min(length, context)
            row = next((index for index, filled in enumerate(used) if filled + size <= context), len(used))
            if row == len(used):
                used.append(0)
            places.append((row, used[row]))
            used[row] += size
            length -= size
    return places


@settings(max_examples=120, deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 12))
def test_the_plan_is_first_fit(lengths, context):
    plan = plan_packing(lengths, context)
    places = list(zip(plan.row.tolist(), plan.column.tolist()))
    assert places == slow_first_fit(lengths, context)
    assert plan.n_rows == max((row for row, _ in places), default=-1) + 1


def test_next_fit_would_fail_that_test():
    plan = plan_packing([3, 4, 2], 5)
    assert plan.row.tolist() == [0, 1, 0]  # next fit, which looks at the last row only, gives [0, 1, 2]


def test_planning_many_documents_takes_no_quadratic_time():
    lengths = np.random.default_rng(0).integers(1, 100, size=20_000)
    plan = plan_packing(lengths, 128)
    assert plan.n_rows < 1.1 * lengths.sum() / 128


def test_no_documents_give_no_rows_and_bad_sizes_are_refused():
    assert pack_documents([], 4).ids.shape == (0, 4)
    assert len(pack_documents([[], []], 4)) == 0
    with pytest.raises(ValueError, match="context must be at least 1, got 0"):
        pack_documents([[1]], 0)


def test_document_starts_are_after_each_end():
    assert document_starts(np.array([0, 5, 0]), 0).tolist() == [0, 1, 3]
    assert document_starts(np.array([5, 6]), 0).tolist() == [0, 2]
    assert document_starts(np.array([], dtype=np.int64), 0).tolist() == [0, 0]


def test_a_packed_row_gives_each_document_the_logits_it_has_alone():
    from llmcore.model import ModelConfig, Transformer

    model = Transformer(ModelConfig(vocab_size=100, width=16, n_layers=2, n_heads=2, context=16)).eval()
    documents = [[1, 2, 3], [4, 5, 6, 7], [8, 9]]
    rows = pack_documents(documents, 9)
    with torch.no_grad():
        packed = model(rows.ids, rows.positions, rows.doc_ids)
        for index, document in enumerate(documents):
            alone = model(torch.tensor([document]))[0]
            # float32 rounding is near 1e-7 here; attention to a neighbour moves logits by more than 1e-3.
            torch.testing.assert_close(packed[rows.doc_ids == index], alone, rtol=0, atol=1e-5)
        mixed = model(rows.ids)
    assert (mixed[rows.doc_ids == 1] - packed[rows.doc_ids == 1]).abs().max() > 1e-4
