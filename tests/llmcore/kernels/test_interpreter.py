"""The Triton kernels, run by triton's interpreter on a CPU, against float64: every feature, its gradients, and mistakes that must show.

One process holds the interpreter (conftest.py), so these tests stay in one worker.
"""

import itertools
import re

import flash_lab
import pytest
import torch
from flash_cases import BFLOAT16_CASES, CASES, bound, measure
from flash_mutants import MUTANTS

pytestmark = pytest.mark.xdist_group("triton interpreter")


def check(one, found):
    too_far = {name: value for name, value in found.items() if not value <= bound(one)}
    assert not too_far, f"{one}: {too_far} beyond {bound(one)}"


def record(record_property, one, found):
    for name, value in (("group", one.group), ("dtype", one.dtype), ("largest", max(found.values()))):
        record_property(name, value)


@pytest.mark.parametrize("one", CASES, ids=str)
def test_values_and_gradients_equal_float64(interpreter, record_property, one):
    found = interpreter(measure, one)
    record(record_property, one, found)
    check(one, found)


@pytest.mark.parametrize("one", BFLOAT16_CASES, ids=str)
def test_bfloat16_tiles_all_the_way_where_the_interpreter_is_mended(interpreter, record_property, one):
    found = interpreter(flash_lab.measure_mended, one)
    record(record_property, one, found)
    check(one, found)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_fail(interpreter, name):
    *_, one = mutant = MUTANTS[name]
    found = interpreter(flash_lab.measure_mutant, *mutant)
    assert found != "stale", f"the mutant {name!r} no longer matches the source"
    assert isinstance(found, dict), f"{name!r} does not run ({found}): it proves nothing"
    # Ten times the bound: a mutant that is nearly caught would say that the bound is too loose.
    assert not max(found.values()) <= 10 * bound(one), f"{name!r} survives: {found}"


def test_unchanged_copies_of_the_kernels_pass(interpreter):
    for name in ("documents see what follows", "no slope of the soft-cap", "parts merged without weights"):
        one = MUTANTS[name][-1]
        check(one, interpreter(flash_lab.measure_mutant, "_tiles", "LOG2E", "LOG2E", one))


@pytest.mark.parametrize(("n_blocks", "n_heads", "together"), [(5, 7, 3), (1, 4, 2), (4, 6, 6), (3, 2, 100), (2, 3, 1)])
def test_every_tile_is_dealt_once_longest_first_within_heads_that_run_together(
    interpreter, n_blocks, n_heads, together
):
    for longest_last in (False, True):
        dealt = interpreter(flash_lab.dealt_tiles, n_blocks, n_heads, together, longest_last)
        assert sorted(dealt) == list(itertools.product(range(n_blocks), range(n_heads)))
        for section in range(0, n_heads, together):
            blocks = [block for block, head in dealt if section <= head < section + together]
            assert blocks == sorted(blocks, reverse=longest_last)


def test_bfloat16_products_are_still_wrong_in_the_interpreter_and_right_when_mended(interpreter):
    as_installed, mended = interpreter(flash_lab.bfloat16_products)
    assert mended
    assert not as_installed, "the interpreter multiplies bfloat16 now: _launch._must_widen and mended_bfloat16 can go"


def test_a_model_trains_to_the_same_loss_curve_as_with_torchs_attention(interpreter, tmp_path):
    ours, torchs = (interpreter(flash_lab.train, backend, 8, str(tmp_path)) for backend in ("triton", "sdpa"))
    assert torchs[-1] < torchs[0] - 0.5
    # float32 rounding of 1e-7 a step, amplified by AdamW; a wrong scale moves the curve by 1e-2 at once.
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(torchs), atol=1e-4, rtol=0)


def test_a_compiled_graph_without_breaks_equals_eager(interpreter):
    assert max(interpreter(flash_lab.compiled_equals_eager)) < 1e-6


def test_torchs_own_checks_of_the_operator(interpreter):
    assert set(interpreter(flash_lab.operator_check).values()) == {"SUCCESS"}


def test_two_backwards_agree_to_the_last_bit(interpreter):
    assert interpreter(flash_lab.twice_equal)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dtype": "float64"},
            "takes float16, bfloat16 and float32, got torch.float64; convert with .to, or use 'tiled'",
        ),
        ({"q": (1, 2, 4, 512), "k": (1, 2, 4, 512)}, "heads of width 1 to 256, got 512 for q and k and 16 for v"),
        ({"v": (1, 2, 4, 300)}, "heads of width 1 to 256, got 16 for q and k and 300 for v"),
        ({"q": (1, 3, 4, 16)}, "key heads must divide query heads, got 3 query and 2 key heads"),
        ({"cu_seqlens": [0, 2, 3]}, "must rise from 0 to the 4 tokens"),
    ],
)
def test_what_cannot_be_done_is_said(interpreter, change, message):
    assert re.search(re.escape(message), interpreter(flash_lab.refusal, change))


def test_edges(interpreter):
    found = interpreter(flash_lab.answers)
    assert found.pop("second derivative") != "no error"
    assert found == {
        "no keys": True,
        "no queries": (1, 2, 0, 16),
        "autocast": "torch.bfloat16",
        "available": True,
        "layout": True,
        "parts": [33, 2, 1],
    }
