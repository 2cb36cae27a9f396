"""Costs against counting by hand, against torch's own FLOP counter, and against models that were really built."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from llmcore import accounting
from llmcore.accounting import (
    activation_bytes,
    attention_flops,
    count_parameters,
    find_hardware,
    flops_per_token,
    kv_cache_bytes,
    matmul_flops,
    mfu,
    mla_cache_bytes,
    model_cache_bytes,
    parameter_breakdown,
    roofline,
    training_bytes,
    visible_pairs,
)
from llmcore.attention import KVCache, visible_mask
from llmcore.model import PRESETS, ModelConfig, Transformer

SMALL = {"vocab_size": 11, "context": 24, "width": 24, "n_layers": 3, "n_heads": 6, "ffn_width": 40}
VARIANTS = {
    "plain": {},
    "grouped": {"n_kv_heads": 2},
    "one head, wide": {"n_kv_heads": 1, "head_dim": 10},
    "biases, layer norm": {"qkv_bias": True, "out_bias": True, "ffn_bias": True, "norm": "layer", "norm_bias": True},
    "gpt-2 like": {"position": "learned", "ffn": "gelu", "ffn_bias": True},
    "untied, qk-norm": {"tie_embeddings": False, "qk_norm": True},
    "double norm": {"norm_placement": "double"},
    "post norm": {"norm_placement": "post"},
    "parallel": {"parallel": True},
    "window": {"window": 3, "full_attention_layers": (1,)},
    "encoder": {"causal": False},
}


@pytest.mark.parametrize("t_q", [1, 4, 7])
@pytest.mark.parametrize("t_k", [1, 5, 7, 12])
def test_visible_pairs_counts_the_mask(t_q, t_k):
    for causal in (False, True):
        for window in (None, 0, 1, 3, 6, 50):
            counted = visible_mask(t_q, t_k, causal=causal, window=window).sum().item()
            assert visible_pairs(t_q, t_k, causal=causal, window=window) == counted


def test_flops_equal_torchs_counter():
    q, k, v = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4), torch.zeros(2, 3, 7, 6)
    with FlopCounterMode(display=False) as counter:
        torch.softmax(q @ k.mT, -1) @ v
    assert counter.get_total_flops() == attention_flops(2, 3, 5, 7, 4, value_dim=6)
    with FlopCounterMode(display=False) as counter:
        torch.zeros(5, 7) @ torch.zeros(7, 3)
    assert counter.get_total_flops() == matmul_flops(5, 7, 3)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_parameters_of_a_config_are_those_of_its_model(variant):
    config = ModelConfig(**{**SMALL, **variant})
    assert count_parameters(config) == count_parameters(Transformer(config))


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_every_preset_are_those_of_its_model(name):
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert count_parameters(PRESETS[name]) == count_parameters(model)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("gpt2-124m", 124_439_808, 124_439_808),
        ("llama-3.1-8b", 8_030_261_248, 8_030_261_248),
        ("mixtral-8x7b", 46_702_792_704, 12_879_925_248),
    ],
)
def test_published_sizes(name, total, active):
    assert count_parameters(PRESETS[name]) == total
    assert count_parameters(PRESETS[name], active=True) == active


def test_deepseek_v3_is_671_billion_of_which_37_are_active():
    config = PRESETS["deepseek-v3"].replace(n_mtp=0)
    assert count_parameters(config) == pytest.approx(671e9, rel=1e-3)
    assert count_parameters(config, active=True) == pytest.approx(37.5e9, rel=0.01)


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if "window" not in v], ids=lambda v: str(v)[:40])
def test_exact_flops_are_the_matrix_products_of_a_forward_pass(variant):
    config = ModelConfig(**{**SMALL, **variant, "causal": False, "tie_embeddings": False})
    ids = torch.zeros(1, 20, dtype=torch.long)
    # torch counts nothing inside its fused CPU attention, so the plain one runs here.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Transformer(config)(ids)
    counted = counter.get_total_flops() / 20
    # The few products outside (rotary tables) must stay below a percent; a forgotten projection is 2 % or more.
    assert flops_per_token(config, 20, training=False) == pytest.approx(counted, rel=0.01)


def test_causal_attention_costs_half_and_training_three_times():
    config = ModelConfig(**SMALL)
    full = flops_per_token(config.replace(causal=False), 21, training=False)
    pair_flops = 2 * config.n_layers * config.n_heads * (2 * config.head_dim)
    assert full - flops_per_token(config, 21, training=False) == pytest.approx(pair_flops * (21 - 11))
    assert flops_per_token(config, 21) == 3 * flops_per_token(config, 21, training=False)


def test_nanogpt_formula():
    config = PRESETS["gpt2-124m"]
    n = 124_439_808 - 1024 * 768
    assert flops_per_token(config, 512, formula="nanogpt") == 6 * n + 12 * 12 * 12 * 64 * 512
    with pytest.raises(ValueError, match="formula must be exact or nanogpt, got 'chinchilla'"):
        flops_per_token(config, formula="chinchilla")


def test_a_mixture_costs_what_its_active_experts_cost():
    config = PRESETS["tiny-moe"]
    dense = config.replace(moe=None, ffn_width=2 * 96)
    router = 2 * config.n_layers * config.width * 4
    assert flops_per_token(config, training=False) == flops_per_token(dense, training=False) + router


def test_cache_bytes_of_published_models():
    assert kv_cache_bytes(96, 96, 128, 2048, 1, 2) == 9 * 2**30
    assert model_cache_bytes(PRESETS["llama-3.1-8b"], 8192) == 2**30
    assert mla_cache_bytes(61, 512, 64, 1) == model_cache_bytes(PRESETS["deepseek-v3"], 1) == 61 * 576 * 2
    assert kv_cache_bytes(1, 1, 64, 3, 2, bytes_per_value=0.5) == 2 * 64 * 3 * 2 // 2


@pytest.mark.parametrize("seq_len", [2, 9, 200])
def test_cache_bytes_are_those_of_a_real_cache(seq_len):
    config = ModelConfig(**{**SMALL, "n_kv_heads": 2, "window": 5, "full_attention_layers": (1,)})
    cache = KVCache(3, window=[config.window_of(layer) for layer in range(3)])
    token = torch.zeros(4, config.n_kv_heads, 1, config.head_dim)
    for _ in range(seq_len):
        for layer in range(3):
            cache.append(layer, token, token)
    assert cache.nbytes == model_cache_bytes(config, seq_len, batch=4, bytes_per_value=4)


def test_roofline_says_what_bounds():
    slow = roofline(2e9, 1e9, peak_flops=1e12, bandwidth=1e11)
    assert (slow.bound, slow.intensity) == ("memory", 2.0)
    assert slow.seconds == pytest.approx(0.01)
    assert slow.flops_per_s == pytest.approx(2e11)
    fast = roofline(1e12, 1e9, peak_flops=1e12, bandwidth=1e11)
    assert (fast.bound, fast.seconds, fast.flops_per_s) == ("compute", 1.0, 1e12)
    with pytest.raises(ValueError, match="peak_flops and bandwidth must be positive"):
        roofline(1, 1, 0, 1)
    with pytest.raises(ValueError, match="bytes_moved must be positive, got 0"):
        roofline(1, 0, 1, 1)


def test_training_bytes():
    config = PRESETS["tiny"]
    assert training_bytes(config) == 16 * count_parameters(config)
    assert training_bytes(Transformer(config), precision="float32") == 16 * count_parameters(config)
    assert training_bytes(10, precision="bfloat16", optimizer="muon") == 60
    with pytest.raises(ValueError, match="precision must be one of mixed"):
        training_bytes(1, precision="fp8")
    with pytest.raises(ValueError, match="optimizer must be one of adamw"):
        training_bytes(1, optimizer="lion")


def test_activations_grow_with_the_square_of_the_context_unless_flash():
    sizes = {"n_layers": 2, "width": 8, "n_heads": 2, "batch": 3}
    assert activation_bytes(**sizes, context=10) == 2 * 34 * 3 * 10 * 8
    extra = [activation_bytes(**sizes, context=n, flash=False) - activation_bytes(**sizes, context=n) for n in (10, 20)]
    assert extra[1] == 4 * extra[0] == 4 * 2 * 5 * 2 * 10 * 10 * 3
    assert activation_bytes(**sizes, context=10, checkpoint=True) == 2 * 2 * 3 * 10 * 8


def test_mfu_over_devices():
    assert mfu(1000, 1e9, 1e13, n_devices=2) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="n_devices at least 1"):
        mfu(1, 1, 1, n_devices=0)


def test_hardware_is_found_by_the_name_that_torch_gives():
    assert find_hardware("NVIDIA H200").bandwidth == 4.8e12
    assert find_hardware("NVIDIA GeForce RTX 4090").flops["bfloat16"] == 165.2e12
    assert find_hardware("nvidia a100-sxm4-40gb").memory_bytes == 40 * 10**9
    assert find_hardware("Tesla T4").name == "T4"
    assert all(hardware.source and hardware.bandwidth > 1e11 for hardware in accounting.HARDWARE.values())
    for other in ("Abacus", "NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA GeForce RTX 4090 Laptop GPU"):
        with pytest.raises(ValueError, match=f"no published peaks for '{other}'"):
            find_hardware(other)


def test_a_breakdown_names_every_part():
    parts = parameter_breakdown(PRESETS["gpt2-124m"])
    assert parts["embedding"] == 50257 * 768
    assert parts["positions"] == 1024 * 768
    assert parts["head"] == 0
    assert parts["attention"] == 12 * (4 * 768 * 768 + 4 * 768)


def test_that_these_tests_catch_a_key_head_counted_for_each_query_head():
    config = ModelConfig(**{**SMALL, "n_kv_heads": 2})
    assert count_parameters(config.replace(n_kv_heads=6)) != count_parameters(Transformer(config))
