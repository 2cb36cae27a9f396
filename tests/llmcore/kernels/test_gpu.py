"""The kernels on a GPU: the interpreter's cases and larger ones in all three dtypes, every tuned launch, gradients always included.

Triton 3.4 to 3.7 is reported to compile `tl.dot(tl.trans(x), y)` with x the cast result of another product into wrong gradients on Hopper, and ptxas
12.8.93, which Triton 3.6 brings, is under suspicion too; so every row of the table is compared with float64, and
TRITON_PTXAS_PATH=/usr/local/cuda/bin/ptxas repeats the run with another assembler. Memory errors and races:

    compute-sanitizer --tool memcheck python -m pytest tests/llmcore/kernels/test_gpu.py -q -k "small and (lengths or documents or decode)"
    compute-sanitizer --tool racecheck python -m pytest tests/llmcore/kernels/test_gpu.py -q -k "small and (lengths or decode)"

Most of the time goes into compiling: with pytest-xdist, -n 8 takes a few minutes.
"""

import os
from dataclasses import replace

import pytest
import torch
from flash_cases import CASES, bound, case, gradients, inputs, measure

from llmcore.attention import attention, dispatch, flash_attention, prefer
from llmcore.attention.kernel_configs import Tiles, use_tiles
from llmcore.attention.kernel_table import TABLE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET is set: nothing is compiled"
    ),
]


def check(one):
    found = measure(one, "cuda")
    limit = 2 * bound(one)  # exp2 and log2 are approximate instructions here
    too_far = {name: value for name, value in found.items() if not value <= limit}
    assert not too_far, f"{one}: {too_far} beyond {limit}"


@pytest.mark.parametrize("one", [one for one in CASES if one.dtype == "float32" and one.group != "tiles"], ids=str)
def test_small_requests_equal_float64(one):
    check(replace(one, tiles=None))


LARGE = [
    case("large", batch=2, heads=heads, kv_heads=kv_heads, t_q=t_q, t_k=t_k, d=d, tiles=None, dtype=dtype, **options)
    for heads, kv_heads, d, dtypes in (
        (4, 4, 64, ("float32", "float16", "bfloat16")),
        (8, 2, 128, ("float16", "bfloat16")),
        (4, 1, 80, ("float32", "bfloat16")),
        (2, 2, 256, ("bfloat16",)),
        (4, 2, 32, ("bfloat16",)),
        (2, 2, 16, ("float16",)),
    )
    for dtype in dtypes
    for t_q, t_k, options in (
        (1000, 1000, {"causal": True}),
        (257, 2100, {"causal": True}),
        (700, 300, {"causal": True}),
        (640, 640, {}),
        (999, 999, {"causal": True, "window": 300}),
        (900, 900, {"causal": True, "borders": (0, 1, 130, 500, 900), "softcap": 30.0}),
        (3, 5000, {"causal": True}),
    )
]


@pytest.mark.parametrize("one", LARGE, ids=str)
def test_large_requests_equal_float64(one):
    check(one)


@pytest.mark.parametrize("key", TABLE, ids=lambda key: "-".join(map(str, key)))
def test_every_row_of_the_table_gives_right_gradients(key):
    kernel, width, mask, length, dtype, engine = key
    tiles = Tiles(*TABLE[key], tma=engine == "tma")
    if engine == "tma" and torch.cuda.get_device_capability()[0] < 9:
        pytest.skip("no copy engine before Hopper")
    shape = {"t_q": 4, "t_k": 3000} if kernel == "decode" else {"t_q": 2100 if length == "long" else 777}
    kv_heads = 1 if kernel == "dkv_grouped" else 2
    for causal in (True, False) if mask == "any" else (mask == "causal",):
        one = case(
            "table",
            heads=2,
            kv_heads=kv_heads,
            d=width,
            causal=causal,
            tiles=None,
            dtype="bfloat16" if dtype == "half" else dtype,
            **shape,
        )
        with use_tiles(**{kernel: tiles}):
            check(one)


def test_two_backwards_agree_to_the_last_bit():
    one = case("bits", batch=2, heads=8, kv_heads=2, t_q=1500, d=64, causal=True, tiles=None, dtype="bfloat16")
    runs = []
    for _ in range(3):
        qkv = inputs(one, "cuda")
        out = flash_attention(*qkv, causal=True, backend="triton", return_lse=True)
        runs.append((*out, *gradients(out, qkv, torch.bfloat16)))
    for run in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(run, runs[0]))


def test_auto_takes_the_kernels_for_what_torch_cannot_say():
    q = torch.randn(1, 2, 300, 64, device="cuda", dtype=torch.bfloat16)
    for options in ({"softcap": 5.0}, {"window": 20}, {"need_lse": True}):
        filled = {"causal": True, "scale": 0.1, "window": None, "softcap": None, **options}
        assert dispatch._choose(q, q, q, None, dispatch._Options(**filled)) == "triton"
    wide = torch.zeros(1, 1, 300, 512, device="cuda", dtype=torch.bfloat16)
    assert dispatch._choose(wide, wide, wide, None, dispatch._Options(True, 0.1, 5, None)) != "triton"
    assert attention(q.double(), q.double(), q.double(), causal=True, softcap=5.0).dtype == torch.float64


def test_compiled_graphs_train_through_the_kernels():
    q = torch.randn(2, 4, 500, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    borders = torch.tensor([0, 100, 500], device="cuda")

    def loss(x):
        return flash_attention(x * 2, x, x, causal=True, cu_seqlens=borders, backend="triton").float().square().sum()

    want, got = (torch.autograd.grad(f(q), q)[0].double() for f in (loss, torch.compile(loss, fullgraph=True)))
    assert (got - want).norm() / want.norm() < 1e-2


def test_a_model_trains_to_the_same_loss_as_with_torchs_attention(tmp_path):
    import flash_lab

    shape = {"width": 256, "n_heads": 4, "n_layers": 2, "vocab_size": 64, "context": 24}
    ours, torchs = (
        flash_lab.train(backend, 20, str(tmp_path), device="cuda", **shape) for backend in ("triton", "sdpa")
    )
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(torchs), atol=1e-3, rtol=0)


def test_tensors_on_the_cpu_are_refused_and_misaligned_ones_are_not():
    with pytest.raises(ValueError, match="needs tensors on a CUDA device, got cpu"):
        flash_attention(*torch.zeros(3, 1, 1, 4, 16), backend="triton")
    buffer = torch.randn(1, 1, 200 * 64 + 1, device="cuda", dtype=torch.bfloat16)
    shifted = buffer[:, :, 1:].view(1, 1, 200, 64)
    torch.testing.assert_close(
        attention(shifted, shifted, shifted, backend="triton"),
        attention(shifted.clone(), shifted.clone(), shifted.clone(), backend="triton"),
    )


def test_memory_grows_with_tokens_not_with_their_square():
    def peak(tokens):
        q = torch.randn(1, 2, tokens, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with prefer("triton"):
            attention(q, q, q, causal=True).sum().backward()
        return torch.cuda.max_memory_allocated() - before

    peak(512)
    assert peak(16384) < 5 * peak(4096)
