"""Positions against formulas written out one number at a time in float64, and what the papers promise."""

import math

import pytest
import torch
from refused import refused

from llmcore.positions import (
    RopeScaling,
    alibi_bias,
    alibi_slopes,
    apply_rope,
    half_to_interleaved,
    interleaved_to_half,
    llama3_inv_freq,
    ntk_base,
    position_interpolation,
    rope_angles,
    rope_attention_factor,
    rope_frequencies,
    sinusoidal,
    yarn_inv_freq,
    yarn_temperature,
)

B, H, T, D = 2, 3, 5, 6
LAYOUTS = ("half", "interleaved")


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pairs_of(layout: str, head_dim: int) -> list[tuple[int, int]]:
    half = head_dim // 2
    return [(i, i + half) if layout == "half" else (2 * i, 2 * i + 1) for i in range(half)]


def rope_oracle(
    x: torch.Tensor, positions: torch.Tensor, base: float, layout: str, rotated: int | None = None
) -> torch.Tensor:
    """Every pair turned by its own 2 x 2 matrix, in float64. x (B, H, T, D), positions (B, T)."""
    rotated = rotated or x.shape[-1]
    out = x.double().clone()
    for b in range(x.shape[0]):
        for t in range(x.shape[2]):
            for i, (first, second) in enumerate(pairs_of(layout, rotated)):
                angle = positions[b, t].item() * base ** (-2 * i / rotated)
                u, w = x[b, :, t, first].double(), x[b, :, t, second].double()
                out[b, :, t, first] = u * math.cos(angle) - w * math.sin(angle)
                out[b, :, t, second] = u * math.sin(angle) + w * math.cos(angle)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rope_equals_a_rotation_of_each_pair(layout):
    x = torch.randn(B, H, T, D, generator=gen())
    positions = torch.tensor([[3, 0, 7, 7, 1], [4000, 2, 5, 0, 9]])
    got = apply_rope(x, positions, rope_frequencies(D, 50.0), layout)
    # float32 angles near 4,000 carry 2.4e-4 radians of rounding, times |x| of about 3.
    torch.testing.assert_close(got.double(), rope_oracle(x, positions, 50.0, layout), atol=1e-3, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_that_tolerance_catches_the_other_layout_and_a_shifted_position(layout):
    x = torch.randn(B, H, T, D, generator=gen())
    positions = torch.arange(3, 3 + T).expand(B, T)
    expected = rope_oracle(x, positions, 50.0, layout)
    other = LAYOUTS[1 - LAYOUTS.index(layout)]
    wrong = [
        apply_rope(x, positions, rope_frequencies(D, 50.0), other),
        apply_rope(x, positions + 1, rope_frequencies(D, 50.0), layout),
        apply_rope(x, -positions, rope_frequencies(D, 50.0), layout),
    ]
    assert all((got - expected).abs().max() > 0.1 for got in wrong)


def test_shared_positions_equal_the_same_positions_in_every_row():
    x = torch.randn(B, H, T, D, generator=gen())
    positions = torch.tensor([4, 1, 1, 9, 0])
    inv_freq = rope_frequencies(D, 10000.0)
    torch.testing.assert_close(apply_rope(x, positions, inv_freq), apply_rope(x, positions.expand(B, T), inv_freq))
    torch.testing.assert_close(apply_rope(x[0, 0], positions, inv_freq), apply_rope(x, positions, inv_freq)[0, 0])


def test_partial_rotary_turns_the_first_columns_only():
    x = torch.randn(B, H, T, 10, generator=gen())
    positions = torch.arange(T).expand(B, T)
    got = apply_rope(x, positions, rope_frequencies(6, 50.0))
    torch.testing.assert_close(got.double(), rope_oracle(x, positions, 50.0, "half", rotated=6), atol=1e-5, rtol=0)
    assert torch.equal(got[..., 6:], x[..., 6:])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_depend_on_distance_alone_and_norms_are_kept(layout):
    q, k = torch.randn(2, 1, 1, D, generator=gen(), dtype=torch.float64)
    inv_freq = rope_frequencies(D, 50.0)

    def score(i: int, j: int) -> torch.Tensor:
        return (
            apply_rope(q, torch.tensor([i]), inv_freq, layout) * apply_rope(k, torch.tensor([j]), inv_freq, layout)
        ).sum()

    torch.testing.assert_close(score(9, 4), score(25, 20), atol=1e-5, rtol=0)
    assert (score(9, 4) - score(4, 9)).abs() > 1e-2
    torch.testing.assert_close(apply_rope(q, torch.tensor([17]), inv_freq, layout).norm(), q.norm())
    assert torch.equal(apply_rope(q, torch.tensor([0]), inv_freq, layout), q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_angles_are_exact_far_out(dtype):
    x = torch.randn(1, 1, 1, 8, generator=gen()).to(dtype)
    got = apply_rope(x, torch.tensor([4001]), rope_frequencies(8, 10000.0))
    assert got.dtype == dtype
    # Half an ulp of the output's dtype at |x| < 4, and float32's rounding of the angle.
    tolerance = {torch.bfloat16: 2**-7, torch.float16: 2**-9}.get(dtype, 0) + 1e-3
    expected = rope_oracle(x, torch.tensor([[4001]]), 10000.0, "half")
    torch.testing.assert_close(got.double(), expected, atol=tolerance, rtol=0)


def test_rope_passes_a_gradient_check():
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=gen(), requires_grad=True)
    for layout in LAYOUTS:
        assert torch.autograd.gradcheck(
            lambda x, layout=layout: apply_rope(x, torch.tensor([5, 1, 8]), rope_frequencies(4, 10.0), layout), x
        )


@pytest.mark.parametrize(
    ("x_shape", "positions_shape"),
    [((B, H, T, D), (T + 1,)), ((B, H, T, D), (B + 1, T)), ((T, D), (B, T)), ((D,), (T,))],
)
def test_positions_of_a_wrong_shape_are_refused(x_shape, positions_shape):
    with refused(match=r"positions must be"):
        apply_rope(torch.zeros(x_shape), torch.zeros(positions_shape), rope_frequencies(D, 10.0))


def test_wrong_dims_layouts_and_bases_are_refused():
    x = torch.zeros(1, 1, 2, 4)
    with refused(match="'half' or 'interleaved', got 'halves'"):
        apply_rope(x, torch.arange(2), rope_frequencies(4, 10.0), layout="halves")
    with refused(match="cannot rotate 6 dims of a head of 4"):
        apply_rope(x, torch.arange(2), rope_frequencies(6, 10.0))
    with refused(match="even and at least 2, got 5"):
        rope_frequencies(5, 10.0)
    with refused(match="base must be positive, got 0"):
        rope_frequencies(4, 0)


def test_half_to_interleaved_keeps_the_scores_and_is_undone():
    n_heads, width = 3, 7
    w_q, w_k = torch.randn(2, n_heads * D, width, generator=gen(), dtype=torch.float64)
    x = torch.randn(T, width, generator=gen(1), dtype=torch.float64)
    inv_freq, positions = rope_frequencies(D, 20.0), torch.arange(T)

    def scores(w_q, w_k, layout):
        q, k = ((x @ w.T).view(T, n_heads, D).transpose(0, 1) for w in (w_q, w_k))
        return apply_rope(q, positions, inv_freq, layout) @ apply_rope(k, positions, inv_freq, layout).mT

    moved = [half_to_interleaved(w, n_heads) for w in (w_q, w_k)]
    torch.testing.assert_close(scores(*moved, "interleaved"), scores(w_q, w_k, "half"))
    assert (scores(w_q, w_k, "interleaved") - scores(w_q, w_k, "half")).abs().max() > 0.1
    assert torch.equal(interleaved_to_half(moved[0], n_heads), w_q)
    bias = torch.randn(n_heads * D, generator=gen())
    assert torch.equal(interleaved_to_half(half_to_interleaved(bias, n_heads), n_heads), bias)
    with refused(match="18 rows do not divide into 4 heads"):
        half_to_interleaved(w_q, 4)


def test_sinusoids_equal_the_paper():
    got = sinusoidal(torch.tensor([0, 3, 11]), 6, base=100.0)
    for row, position in enumerate((0, 3, 11)):
        for i in range(3):
            angle = position / 100.0 ** (2 * i / 6)
            assert got[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert got[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert got.dtype == torch.float32
    with refused(match="even"):
        sinusoidal(torch.arange(3), 5)


def test_rope_angles_are_float32_whatever_the_positions_are():
    assert rope_angles(torch.arange(3), 4).dtype == torch.float32
    assert rope_angles(torch.tensor([5]), 4, base=100.0)[0].tolist() == pytest.approx([5.0, 0.5])


def test_position_interpolation_squeezes_and_never_stretches():
    assert position_interpolation(torch.tensor([0, 5, 10]), 4, 16).tolist() == [0.0, 1.25, 2.5]
    assert position_interpolation(torch.tensor([0, 5]), 16, 4).tolist() == [0.0, 5.0]
    # The same angles as dividing the frequencies.
    scaled = rope_frequencies(D, 50.0, {"rope_type": "linear", "factor": 4.0})
    torch.testing.assert_close(5 * scaled, 1.25 * rope_frequencies(D, 50.0))


def test_ntk_scales_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    plain = rope_frequencies(8, 100.0)
    scaled = rope_frequencies(8, 100.0, RopeScaling(kind="ntk", factor=4.0))
    assert scaled[0] == plain[0]
    assert (plain[-1] / scaled[-1]).item() == pytest.approx(4.0, rel=1e-5)
    with refused(match="above 2, got 2"):
        ntk_base(100.0, 2.0, 2)


def test_dynamic_scaling_begins_beyond_the_original_context():
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_context=16)
    plain = rope_frequencies(8, 100.0)
    assert torch.equal(rope_frequencies(8, 100.0, scaling, length=16), plain)
    assert torch.equal(rope_frequencies(8, 100.0, scaling), plain)
    # 2 * 32 / 16 - 1 = 3 times longer.
    expected = rope_frequencies(8, ntk_base(100.0, 3.0, 8))
    torch.testing.assert_close(rope_frequencies(8, 100.0, scaling, length=32), expected)


def test_llama3_keeps_short_waves_divides_long_ones_and_blends_between():
    context, factor, low, high = 64, 8.0, 1.0, 4.0
    plain = rope_frequencies(16, 1000.0)
    got = llama3_inv_freq(16, 1000.0, factor, context, low, high)
    kinds = set()
    for before, after in zip(plain.tolist(), got.tolist()):
        wave = 2 * math.pi / before
        if wave < context / high:
            kinds.add("kept")
            assert after == pytest.approx(before, rel=1e-6)
        elif wave > context / low:
            kinds.add("divided")
            assert after == pytest.approx(before / factor, rel=1e-6)
        else:
            kinds.add("blended")
            smooth = (context / wave - low) / (high - low)
            assert after == pytest.approx((1 - smooth) * before / factor + smooth * before, rel=1e-6)
    assert kinds == {"kept", "divided", "blended"}


def test_yarn_by_turns_is_the_formula_of_the_exercise():
    head_dim, base, scale, train_len, fast, slow = 16, 1000.0, 4.0, 200, 20.0, 2.0
    got = yarn_inv_freq(head_dim, base, scale, train_len, fast, slow)
    gammas = []
    for i, value in enumerate(got.tolist()):
        inv_freq = base ** (-2 * i / head_dim)
        gamma = min(max((train_len * inv_freq / (2 * math.pi) - slow) / (fast - slow), 0.0), 1.0)
        gammas.append(gamma)
        assert value == pytest.approx(inv_freq * (gamma + (1 - gamma) / scale), rel=1e-6)
    assert 0 in gammas
    assert 1 in gammas
    assert any(0 < gamma < 1 for gamma in gammas)


def test_yarn_temperature_and_what_the_model_multiplies_by():
    assert yarn_temperature(4.0) == pytest.approx(0.1 * math.log(4) + 1)
    assert yarn_temperature(0.5) == 1
    scaling = RopeScaling(kind="yarn", factor=4.0, original_context=16)
    assert rope_attention_factor(scaling) == yarn_temperature(4.0)
    assert rope_attention_factor(None) == 1
    assert rope_attention_factor(RopeScaling(kind="linear", factor=4.0)) == 1


@pytest.mark.interop
@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 48},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "truncate": False, "beta_fast": 10.0, "beta_slow": 2.0},
        {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 1.0, "mscale_all_dim": 0.7},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "attention_factor": 1.3},
    ],
)  # fmt: skip
def test_scalings_equal_transformers(parameters):
    transformers = pytest.importorskip("transformers", reason="the released scalings are the oracle")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=36,
        num_attention_heads=2,
        max_position_embeddings=64,
        rope_parameters={**parameters, "rope_theta": 500.0},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    scaling = RopeScaling.from_dict(parameters)
    torch.testing.assert_close(rope_frequencies(18, 500.0, parameters), expected, rtol=1e-5, atol=0)
    assert rope_attention_factor(scaling) == pytest.approx(factor)
    assert RopeScaling.from_dict(scaling.to_dict()) == scaling


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "yarm", "factor": 2.0}, "must be one of linear, ntk, dynamic, yarn, llama3, got 'yarm'"),
        ({"kind": "linear", "factor": 0.5}, "factor must be at least 1, got 0.5"),
        ({"kind": "yarn", "factor": 2.0}, "yarn scaling needs original_context"),
        ({"kind": "llama3", "factor": 2.0, "original_context": 8, "low_freq_factor": 4.0, "high_freq_factor": 1.0}, "swap them"),
        ({"kind": "yarn", "factor": 2.0, "original_context": 8, "beta_fast": 1.0, "beta_slow": 32.0}, "swap them"),
    ],
)  # fmt: skip
def test_wrong_scalings_are_refused(options, message):
    with refused(match=message):
        RopeScaling(**options)


def test_plain_rope_in_hugging_face_words_is_no_scaling():
    assert RopeScaling.from_dict({"rope_type": "default", "rope_theta": 5.0}) is None


@pytest.mark.parametrize(
    ("n_heads", "expected"),
    [
        (8, [2**-i for i in range(1, 9)]),
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),
        (1, [2**-8]),
        (12, [2**-i for i in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_alibi_slopes_are_those_of_the_paper(n_heads, expected):
    assert alibi_slopes(n_heads).tolist() == pytest.approx(expected)


def test_alibi_bias_falls_with_distance_from_the_bottom_right():
    slopes, bias = alibi_slopes(3), alibi_bias(3, 2, 5)
    for h in range(3):
        for i in range(2):
            for j in range(5):
                assert bias[h, i, j].item() == pytest.approx(-slopes[h].item() * abs(i + 3 - j))
    assert bias.dtype == torch.float32
    with refused(match="t_q=5 and t_k=2"):
        alibi_bias(3, 5, 2)
    with refused(match="at least 1, got 0"):
        alibi_slopes(0)
