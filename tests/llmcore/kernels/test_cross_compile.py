"""The kernels compiled for Hopper without a GPU, and the stored table of all tuned launches held against the code."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec

import pytest
from cross_compile import Launch, compile_launch, stored, table_launches
from flash_cases import case
from launch_lab import compiled_by_launching

from llmcore.attention.kernel_configs import (
    KERNELS,
    MAX_HEAD_DIM,
    Tiles,
    choose_tiles,
    look_up,
    smaller,
    table_key,
    use_tiles,
)

needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or find_spec("triton") is None, reason="triton with its NVIDIA assembler is not installed"
)


@pytest.fixture(scope="module")
def compiler(monkeypatch_module):
    """A process whose kernels are not interpreted, whatever this one's are."""
    monkeypatch_module.delenv("TRITON_INTERPRET", raising=False)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result(timeout=300)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@needs_compiler
@pytest.mark.parametrize(("kernel", "width"), [("forward", 64), ("dkv", 128), ("dq", 64)])
def test_tuned_kernels_fit_hopper_without_spills_and_use_its_matrix_instructions(compiler, kernel, width):
    tiles = look_up(table_key(kernel, width, True, 1024, 2, tma=True))
    launch = Launch(kernel, width, "bfloat16", tiles, ("causal",))
    got = compiler(compile_launch, launch)
    assert got.complaints(launch) == []
    assert got.hgmma > 0
    assert got.tma > 0
    assert got.spilled_bytes == 0


@needs_compiler
def test_the_check_notices_a_tile_that_is_too_large(compiler):
    launch = Launch("dq", 64, "bfloat16", Tiles(128, 128, 4, 1, tma=True), ("causal",))
    assert any("local memory" in line for line in compiler(compile_launch, launch).complaints(launch))


@needs_compiler
@pytest.mark.parametrize(
    ("one", "kernels"),
    [
        (
            case(
                "launch",
                heads=4,
                kv_heads=2,
                t_q=48,
                d=24,
                borders=(0, 20, 48),
                window=9,
                softcap=2.0,
                tiles=Tiles(16, 16, tma=True),
                dtype="bfloat16",
            ),
            ["forward_kernel", "delta_kernel", "dkv_kernel", "dq_kernel"],
        ),
        (
            case("launch", heads=2, t_q=1, t_k=200, tiles=Tiles(16, 16), dtype="float16"),
            ["part_kernel", "merge_kernel"],
        ),
    ],
    ids=["forward and backward", "decode"],
)
def test_the_arguments_of_a_launch_bind_and_compile_without_a_gpu(compiler, one, kernels):
    assert compiler(compiled_by_launching, one) == kernels


def test_the_stored_table_covers_every_launch_and_breaks_no_rule():
    found = stored()
    missing = [launch.name for launch in table_launches() if launch not in found]
    assert not missing, f"run benchmarks/cross_compile.py --write, it has no {missing[:3]}"
    assert {launch.name: got.complaints(launch) for launch, got in found.items() if got.complaints(launch)} == {}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("item_bytes", [2, 4])
def test_every_request_finds_a_row(kernel, item_bytes):
    for head_dim in (1, 16, 24, 64, 80, 128, 192, MAX_HEAD_DIM):
        for causal in (False, True):
            for tma in (False, True):
                found = choose_tiles(kernel, head_dim, causal, 4096, item_bytes, tma)
                assert min(found.block_q, found.block_k) >= 16
                assert found.tma in (False, tma)


def test_tiles_shrink_until_they_fit_anything():
    seen = list(smaller(Tiles(128, 64, 8, 3)))
    assert seen[0] == Tiles(128, 64, 8, 3)
    assert (seen[-1].block_q, seen[-1].block_k, seen[-1].stages) == (16, 16, 1)
    sizes = [one.stages * one.block_q * one.block_k for one in seen]
    assert sizes == sorted(sizes, reverse=True)


def test_use_tiles_is_undone_and_refuses_unknown_kernels():
    before = choose_tiles("forward", 64, True, 512, 2, False)
    with use_tiles(forward=Tiles(16, 16)):
        assert choose_tiles("forward", 64, True, 512, 2, False) == Tiles(16, 16)
        with use_tiles(Tiles(32, 32)):
            assert choose_tiles("dq", 64, True, 512, 2, False) == Tiles(32, 32)
        assert choose_tiles("dq", 64, True, 512, 2, False) != Tiles(32, 32)
    assert choose_tiles("forward", 64, True, 512, 2, False) == before
    with (
        pytest.raises(ValueError, match="kernel names are forward, dkv, dkv_grouped, dq, decode, got backward"),
        use_tiles(backward=Tiles(16, 16)),
    ):
        pass
    with pytest.raises(ValueError, match="block_q must be a power of two of at least 16, got 24"):
        Tiles(24, 16)
