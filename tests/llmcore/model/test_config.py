"""ModelConfig: what it derives, what it refuses, and that it survives JSON."""

import json

import pytest
import torch
from refused import refused
from transformer_oracle import CONFIGS

from llmcore.model import PRESETS, LatentConfig, ModelConfig, MoeConfig, Transformer
from llmcore.positions import RopeScaling

LATENT = {"kv_rank": 4, "nope_dim": 4, "rope_dim": 2, "value_dim": 3}


def test_what_is_left_out_is_derived():
    config = ModelConfig(width=12, n_heads=3)
    assert (config.n_kv_heads, config.head_dim, config.ffn_width) == (3, 4, 64)
    assert ModelConfig(width=12, n_heads=3, ffn="gelu").ffn_width == 48
    assert ModelConfig(width=12, n_heads=3, latent=LatentConfig(**LATENT)).head_dim == 6
    assert ModelConfig(width=12, n_heads=3).replace(width=24).head_dim == 8
    assert ModelConfig(width=12, n_heads=3, head_dim=6).replace(width=24).head_dim == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "n_heads": 3}, r"n_heads must divide width=10, got 3; change one of them or pass head_dim"),
        ({"n_heads": 6, "n_kv_heads": 4}, r"n_kv_heads must divide n_heads=6, got 4; 1 shares one head, 6 shares none"),
        ({"n_kv_heads": 0}, "n_kv_heads must divide"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"n_layers": 0}, "n_layers must be at least 1, got 0"),
        ({"width": 9, "n_heads": 3}, r"RoPE turns pairs: head_dim \* rotary_fraction must be even and at least 2, got 3"),
        ({"width": 12, "n_heads": 3, "rotary_fraction": 0.75}, "must be even"),
        ({"rotary_fraction": 1.5}, r"rotary_fraction must be in \(0, 1\], got 1.5"),
        ({"position": "rotary"}, "position must be one of rope, learned, sinusoidal, alibi, none, got 'rotary'"),
        ({"norm": "batch"}, "norm must be one of rms, layer, got 'batch'"),
        ({"norm_placement": "sandwich"}, "norm_placement must be one of pre, post, double, deep"),
        ({"ffn": "swish"}, "ffn must be one of relu, relu2"),
        ({"window": -1}, "window must be at least 0, got -1; for full attention pass None"),
        ({"nope_layers": (12,)}, r"nope_layers names layers \[12\], but the 12 layers are 0..11"),
        ({"full_attention_layers": (-1,)}, "full_attention_layers names layers"),
        ({"moe": MoeConfig(n_experts=2, top_k=1, expert_width=4, dense_layers=(99,))}, "moe.dense_layers names layers"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"attention_softcap": 0.0}, "attention_softcap must be positive, got 0.0"),
        ({"parallel": True, "norm_placement": "post"}, "parallel blocks need norm_placement='pre', got 'post'"),
        ({"norm_unit_offset": True, "norm": "layer"}, "norm_unit_offset belongs to norm='rms'"),
        ({"norm_bias": True}, "norm_bias belongs to norm='layer'"),
        ({"position": "sinusoidal", "width": 9, "n_heads": 3}, "sinusoidal positions need an even width, got 9"),
        ({"position": "alibi", "rope_scaling": RopeScaling(kind="linear", factor=2.0)}, "rope_scaling needs position='rope', got 'alibi'"),
        ({"latent": LatentConfig(**LATENT), "qk_norm": True}, "without qk_norm"),
        ({"latent": LatentConfig(**LATENT), "head_dim": 5}, "head_dim = nope_dim \\+ rope_dim = 6, got 5"),
        ({"latent": LatentConfig(**LATENT), "n_kv_heads": 1}, "latent attention shares no heads"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(options, message):
    with refused(match=message):
        ModelConfig(**options)


@pytest.mark.parametrize(("name", "value"), [("kv_rank", 0), ("rope_dim", 3), ("q_rank", 0)])
def test_wrong_latent_sizes_are_refused(name, value):
    with refused(match=f"latent.{name} must be"):
        LatentConfig(**(LATENT | {name: value}))


def test_a_typo_is_an_error_at_once():
    with pytest.raises(TypeError, match="n_head"):
        ModelConfig(n_head=3)
    with refused(match="ModelConfig has no field n_head"):
        ModelConfig.from_dict({"n_head": 3})


@pytest.mark.parametrize("config", [*CONFIGS.values(), *PRESETS.values()])
def test_json_gives_the_same_config_back(config):
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_configs_are_values():
    assert ModelConfig() == ModelConfig()
    assert len({ModelConfig(), ModelConfig()}) == 1
    with pytest.raises(AttributeError):
        ModelConfig().width = 3


# Parameters as the publications state them, in millions.
PUBLISHED = {
    "gpt2-124m": 124.4, "gpt2-medium": 354.8, "gpt2-large": 774.0, "gpt2-xl": 1557.6, "llama-3.1-8b": 8030.3,
    "llama-3.2-1b": 1235.8, "qwen2.5-0.5b": 494.0, "qwen3-0.6b": 596.0, "qwen3-30b-a3b": 30532.1, "mistral-7b": 7241.7,
    "mixtral-8x7b": 46702.8, "gemma-2-2b": 2614.3,
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = Transformer(PRESETS[name])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], abs=0.06)


def test_deepseek_v3_has_671_billion_without_its_prediction_module():
    with torch.device("meta"):
        model = Transformer(PRESETS["deepseek-v3"].replace(n_mtp=0))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(671.0, abs=0.1)


@pytest.mark.interop
def test_presets_equal_the_defaults_of_transformers():
    transformers = pytest.importorskip("transformers", reason="its default configs are those of the published models")
    from llmcore.model.hf import config_from_hf

    for name, theirs in {"gpt2-124m": transformers.GPT2Config(), "gemma-2-2b": transformers.Gemma2Config()}.items():
        assert config_from_hf(theirs.to_dict()) == PRESETS[name]
