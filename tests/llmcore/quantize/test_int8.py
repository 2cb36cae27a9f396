"""int8 tensors: bounds of the error, exact zeros, rounding, and what each slip in the formula costs."""

import pytest
import torch
from refused import refused

from llmcore.quantize import affine_dequantize, affine_quantize, dequantize_int8, quantize_int8


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_the_error_is_at_most_half_a_step_of_each_slice(dim):
    x = values(5, 7, 3) * torch.tensor([1e-3, 1.0, 300.0])
    codes, scale = quantize_int8(x, dim)
    assert codes.dtype == torch.int8
    assert scale.shape == x.amax(dim, keepdim=True).shape
    error = (dequantize_int8(codes, scale) - x).abs()
    assert (error <= scale / 2 * (1 + 1e-5)).all()
    assert int(codes.abs().amax()) == 127


def test_rows_and_columns_are_not_mistaken_for_each_other():
    x = torch.tensor([[1.0, 100.0], [2.0, 50.0]])
    assert quantize_int8(x, -1)[1].flatten().tolist() == pytest.approx([100 / 127, 50 / 127])
    assert quantize_int8(x, 0)[1].flatten().tolist() == pytest.approx([2 / 127, 100 / 127])


def test_rounding_is_half_to_even_and_codes_are_symmetric():
    x = torch.tensor([127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0])
    assert quantize_int8(x)[0].tolist() == [127, 0, 2, 2, 0, -2, -127]


def test_a_row_of_zeros_has_scale_one_and_stays_zero():
    codes, scale = quantize_int8(torch.zeros(3, 4))
    assert scale.tolist() == [[1.0]] * 3
    assert not dequantize_int8(codes, scale).any()
    assert quantize_int8(torch.zeros(2, 0))[0].shape == (2, 0)
    assert quantize_int8(torch.zeros(0, 2))[1].shape == (0, 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_computed_wide(dtype):
    x = (values(4, 9) * 3).to(dtype)
    codes, scale = quantize_int8(x)
    assert scale.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert ((dequantize_int8(codes, scale) - x).abs() <= scale / 2 * (1 + 1e-5)).all()


def test_the_input_stays_as_it_was_and_may_be_a_view():
    x = values(4, 6)
    before = x.clone()
    from_view = quantize_int8(x.t())
    torch.testing.assert_close(from_view, quantize_int8(x.t().contiguous()))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "slip",
    [
        lambda x: (x / (x.abs().amax(-1, keepdim=True) / 128)).round().clamp(-128, 127),
        lambda x: (x / (x.abs().amax(-1, keepdim=True) / 127)).floor(),
        lambda x: (x / (x.abs().amax() / 127)).round(),
    ],
    ids=["divides by 128", "floors", "one scale for all"],
)
def test_that_comparison_catches_a_slip(slip):
    x = values(5, 7) * torch.arange(1, 6)[:, None]
    assert (slip(x).to(torch.int8) != quantize_int8(x)[0]).any()


@pytest.mark.parametrize(("q_min", "q_max"), [(-128, 127), (0, 255), (-8, 7), (0, 15), (-127, 127)])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.4, 9.0])
def test_affine_codes_use_the_range_and_keep_zero_exact(q_min, q_max, shift):
    x = torch.cat((values(40) + shift, torch.zeros(1)))
    codes, scale, zero_point = affine_quantize(x, q_min, q_max)
    assert codes.dtype == (torch.int8 if q_max <= 127 else torch.int32)
    assert q_min <= int(codes.min()) <= int(codes.max()) <= q_max
    assert int(codes.max()) - int(codes.min()) >= q_max - q_min - 1
    assert codes[-1] == zero_point
    error = (affine_dequantize(codes, scale, zero_point) - x).abs().max()
    # Rounding the zero point may push one end past the range by half a step: a step in all.
    assert error <= scale * (1 + 1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, -7.25, 1e-30, 3e38])
@pytest.mark.parametrize(("q_min", "q_max"), [(-128, 127), (0, 15)])
def test_a_constant_comes_back_as_itself(constant, q_min, q_max):
    x = torch.full((3, 2), constant)
    assert torch.equal(affine_dequantize(*affine_quantize(x, q_min, q_max)), x)


def test_all_of_float32s_range_is_taken():
    x = torch.tensor([-3e38, 0.0, 3e38])
    assert torch.isfinite(affine_dequantize(*affine_quantize(x))).all()


def test_affine_agrees_with_torchs_own_quantized_tensor():
    x = values(31) + 0.7
    codes, scale, zero_point = affine_quantize(x)
    theirs = torch.fake_quantize_per_tensor_affine(x, scale, zero_point, -128, 127)
    torch.testing.assert_close(affine_dequantize(codes, scale, zero_point), theirs, atol=1e-6, rtol=0)
    wrong = affine_dequantize(codes, scale, -zero_point)
    assert (wrong - theirs).abs().max() > 1e-2


def test_what_has_no_code_is_refused():
    with refused("floating point, got torch.int64"):
        quantize_int8(torch.arange(3))
    for bad in (float("nan"), float("inf")):
        with refused("not finite"):
            quantize_int8(torch.tensor([1.0, bad]))
        with refused("not finite"):
            affine_quantize(torch.tensor([1.0, bad]))
    with refused("q_min must be below q_max, got 5 and 5"):
        affine_quantize(torch.ones(2), 5, 5)
