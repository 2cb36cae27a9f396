"""NF4: the published numbers and where they come from, blocks, packing, double quantization, and bitsandbytes' bytes."""

import math
from statistics import NormalDist

import pytest
import torch
from refused import refused

from llmcore.quantize import dequantize_nf4, nf4_codebook, pack_codes, pack_nf4, quantize_nf4, unpack_codes
from llmcore.quantize.nf4 import dynamic_codebook


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def derived_codebook() -> list[float]:
    """Quantiles of the normal at evenly spaced probabilities between 1/2 and 1 - (1/30 + 1/32) / 2: eight above 0, seven below."""
    normal, outermost = NormalDist(), 1 - (1 / 30 + 1 / 32) / 2

    def side(count: int) -> list[float]:
        return [normal.inv_cdf(outermost + (0.5 - outermost) * index / count) for index in range(count)]

    found = sorted(side(8) + [0.0] + [-value for value in side(7)])
    return [value / max(found) for value in found]


def test_the_code_book_is_that_of_the_normal_distribution():
    book = nf4_codebook()
    assert book.shape == (16,)
    # The published numbers went through float32: seven digits. Equal steps differ in the second.
    torch.testing.assert_close(book, torch.tensor(derived_codebook()), atol=5e-7, rtol=0)
    assert (book - torch.linspace(-1, 1, 16)).abs().max() > 0.1
    assert book[7] == 0
    assert (book.diff() > 0).all()
    assert (book < 0).sum() == 7


def oracle(w: torch.Tensor, block: int) -> tuple[list[int], list[float]]:
    """Every value compared with every code, in Python's floats."""
    flat, book = w.flatten().tolist(), nf4_codebook().tolist()
    codes, absmax = [], []
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        largest = max(abs(value) for value in part)
        absmax.append(largest)
        codes += [min(range(16), key=lambda code: abs(value / (largest or 1.0) - book[code])) for value in part]
    return codes, absmax


@pytest.mark.parametrize(("shape", "block"), [((5, 13), 64), ((3, 43), 64), ((7, 11), 8), ((1,), 64), ((64,), 64)])
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_codes_and_scales_equal_the_oracle(shape, block, size):
    w = values(*shape) * size
    codes, absmax = quantize_nf4(w, block)
    expected_codes, expected_absmax = oracle(w, block)
    assert codes.tolist() == expected_codes
    assert absmax.tolist() == expected_absmax
    assert (codes.dtype, absmax.dtype) == (torch.uint8, torch.float32)
    back = dequantize_nf4(codes, absmax, shape, block)
    expected = [nf4_codebook()[code].item() * expected_absmax[i // block] for i, code in enumerate(expected_codes)]
    torch.testing.assert_close(back.flatten(), torch.tensor(expected), rtol=1e-6, atol=0)


def test_that_comparison_catches_floors_columns_and_one_scale_for_all():
    w = values(6, 10)
    w[0, 0] = 40.0
    codes, absmax = quantize_nf4(w, 8)
    floored = torch.bucketize(w.flatten()[:8] / absmax[0], nf4_codebook(), right=True).sub(1).clamp(0)
    assert (floored != codes[:8]).any()
    assert (quantize_nf4(w.t(), 8)[0] != codes).any()
    assert (quantize_nf4(w, 60)[0] != codes).any()
    assert (
        dequantize_nf4(codes, absmax, w.shape, 8) - dequantize_nf4(*quantize_nf4(w, 60), w.shape, 60)
    ).abs().max() > 0.1


def test_zeros_stay_zeros_and_ties_take_the_lower_code():
    w = torch.zeros(130)
    w[70] = -2.0
    codes, absmax = quantize_nf4(w)
    assert torch.equal(dequantize_nf4(codes, absmax, (130,)), w)
    assert absmax.tolist() == [0.0, 2.0, 0.0]
    assert torch.equal(pack_nf4(w).dequantize() == 0, w == 0)
    book = nf4_codebook()
    middle = ((book[9].double() + book[10].double()) / 2).float().item()
    assert quantize_nf4(torch.tensor([1.0, middle]))[0].tolist() == [15, 9]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 64])
def test_packing_two_codes_a_byte_and_back(count):
    codes = torch.randint(0, 16, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    packed = pack_codes(codes)
    assert len(packed) == -(-count // 2)
    assert torch.equal(unpack_codes(packed, count), codes)
    if count == 7:
        assert packed[0] == 16 * codes[0] + codes[1], "the first code is in the high half"
        assert not torch.equal(unpack_codes((packed << 4) | (packed >> 4), count), codes)


@pytest.mark.parametrize("shape", [(33, 64), (5, 13), (9, 65), (3,), (0, 4)])
@pytest.mark.parametrize("double", [False, True])
def test_the_packed_form_holds_the_same_tensor(shape, double):
    w = values(*shape)
    packed = pack_nf4(w, double=double)
    codes, absmax = quantize_nf4(w)
    if not double:
        assert torch.equal(packed.dequantize(), dequantize_nf4(codes, absmax, shape))
    torch.testing.assert_close(packed.dequantize(), dequantize_nf4(codes, packed.absmax(), shape), rtol=0, atol=0)
    assert packed.dequantize(torch.bfloat16).dtype == torch.bfloat16


def test_double_quantization_saves_the_bits_that_it_should_and_costs_little():
    w = values(512, 512)
    plain, double = pack_nf4(w, double=False), pack_nf4(w)
    bits = [8 * packed.nbytes / w.numel() for packed in (plain, double)]
    assert bits[0] == 4.5
    assert bits[1] == pytest.approx(4 + 8 / 64 + 32 / (64 * 256), abs=1e-3)
    errors = [(packed.dequantize() - w).norm() / w.norm() for packed in (plain, double)]
    assert errors[0] < 0.1
    assert errors[1] < errors[0] * 1.01


def test_nf4_beats_sixteen_equal_steps_on_normal_weights():
    w = values(256, 256)
    nf4 = dequantize_nf4(*quantize_nf4(w), w.shape)
    blocks = w.view(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True) / 7
    int4 = ((blocks / scale).round().clamp(-8, 7) * scale).view_as(w)
    assert (nf4 - w).square().mean() < 0.8 * (int4 - w).square().mean()


def test_the_scales_code_book_is_the_dynamic_one():
    book = dynamic_codebook()
    assert book.shape == (256,)
    assert book.unique().numel() == 256
    assert {0.0, 1.0} <= set(book.tolist())
    assert torch.allclose(book[:127], -book[128:255].flip(0))
    assert book[128].item() == pytest.approx(0.55e-6)


@pytest.mark.interop
@pytest.mark.parametrize("shape", [(96, 320), (64, 1024), (5, 64)])
@pytest.mark.parametrize("double", [False, True])
def test_bytes_equal_those_of_bitsandbytes(shape, double):
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is the peer of this test")
    w = values(*shape)
    theirs, state = functional.quantize_4bit(w, blocksize=64, compress_statistics=double, quant_type="nf4")
    ours = pack_nf4(w, double=double)
    assert torch.equal(theirs.flatten(), ours.packed)
    if double:
        torch.testing.assert_close(state.state2.absmax, ours.scale_max)
        torch.testing.assert_close(state.state2.code, dynamic_codebook())
        # A scale half-way between two codes may fall to either side: they divide, or multiply by the inverse.
        assert (state.absmax != ours.scales).sum() <= math.ceil(0.005 * ours.scales.numel())
    else:
        torch.testing.assert_close(state.absmax, ours.scales)
    torch.testing.assert_close(functional.dequantize_4bit(theirs, state), ours.dequantize(), atol=2e-2, rtol=0)


def test_what_does_not_fit_is_refused():
    w = values(4, 3)
    codes, absmax = quantize_nf4(w, 5)
    with refused("needs 12 codes and 3 blocks of 5, got 12 and 2"):
        dequantize_nf4(codes, absmax[:2], (4, 3), 5)
    with refused("needs 13 codes"):
        dequantize_nf4(codes, absmax, (13,), 5)
    with refused("codes are 0..15, got 200"):
        dequantize_nf4(torch.full((12,), 200, dtype=torch.uint8), absmax, (4, 3), 5)
    with refused("block must be at least 1, got 0"):
        quantize_nf4(w, 0)
    with refused("not finite"):
        pack_nf4(torch.tensor([float("nan")]))
    with refused("floating point"):
        quantize_nf4(torch.arange(3))
    with refused("0..15, got 16"):
        pack_codes(torch.tensor([16], dtype=torch.uint8))
    with refused("5 codes take 3 bytes, got 2"):
        unpack_codes(torch.zeros(2, dtype=torch.uint8), 5)
