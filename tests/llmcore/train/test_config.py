"""TrainConfig: every mistake is named, files and overrides mean what they say."""

from dataclasses import fields
from pathlib import Path

import pytest

from llmcore.model import PRESETS
from llmcore.train import TrainConfig
from llmcore.train.config import describe_fields

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def test_a_config_survives_json_and_toml(tmp_path):
    config = TrainConfig(
        lr=3e-3, betas=(0.8, 0.9), train_data=("a", "b"), model={"width": 32, "n_heads": 4}, clip_norm=None
    )
    assert TrainConfig.from_dict(config.to_dict()) == config
    path = tmp_path / "c.toml"
    path.write_text(
        'out_dir = "x"\n[data]\ntrain_data = ["a", "b"]\n[model]\nwidth = 32\nn_heads = 4\n[training]\nlr = 1\nmin_lr = 0\n'
    )
    read = TrainConfig.from_toml(path, ["lr=3e-3", "model.n_layers=2", "clip_norm=none", "sample_prompt=Hello there"])
    assert read.lr == 3e-3
    assert read.min_lr == 0.0
    assert read.train_data == ("a", "b")
    assert read.model == {"width": 32, "n_heads": 4, "n_layers": 2}
    assert read.clip_norm is None
    assert read.sample_prompt == "Hello there"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lrr": 1}, "no setting 'lrr'; did you mean 'lr'"),
        ({"total_steps": 0}, "total_steps must be at least 1, got 0"),
        ({"total_steps": 1.5}, "total_steps must be int"),
        ({"compile": 1}, "compile must be bool"),
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"schedule": "cosin"}, "schedule must be one of cosine, wsd"),
        ({"micro_batch": 5}, "micro_batch must divide batch_size=32, got 5"),
        ({"min_lr": 1.0}, "min_lr must be in"),
        ({"warmup_steps": 2000}, "warmup_steps must be in 0..total_steps=1000"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"model": {"widht": 3}}, "no model field 'widht'; did you mean 'width'"),
        ({"model": {"preset": "gpt5"}}, "model.preset must be one of"),
        ({"model": {"width": 10, "n_heads": 3}}, "n_heads must divide width=10"),
        ({"model": {"vocab_size": 100}}, "model.vocab_size must be at least the tokenizer's 1024"),
        ({"model": {"position": "learned", "context": 64}}, "longer than the model's 64 learned positions"),
        ({"data_order": "stream"}, "a stream holds nothing out"),
        ({"sample_every": 1, "parallel": "fsdp"}, "samples are not made under fsdp"),
        ({"precision": "fp16", "parallel": "fsdp"}, "fp16 goes with ddp"),
        ({"eval_fraction": 1.0}, "eval_fraction"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_every_mistake_is_named(settings, text):
    with pytest.raises(ValueError, match=text):
        TrainConfig.from_dict(settings)


def test_files_that_are_not_there_or_no_toml_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        TrainConfig.from_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("lr = = 3")
    with pytest.raises(ValueError, match=r"bad\.toml.* is no TOML file"):
        TrainConfig.from_toml(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text("")
    with pytest.raises(ValueError, match="key=value, got 'lr'"):
        TrainConfig.from_toml(tmp_path / "good.toml", ["lr"])


def test_a_preset_is_a_start_that_fields_change():
    config = TrainConfig(vocab_size=300, context=64, model={"preset": "tiny-moe", "n_layers": 3})
    model = config.model_config(300)
    assert (model.n_layers, model.vocab_size, model.context) == (3, 300, 64)
    assert model.moe == PRESETS["tiny-moe"].moe
    nested = TrainConfig(model={"preset": "tiny", "moe": {"n_experts": 2, "top_k": 1, "expert_width": 8}})
    assert nested.model_config(1024).moe.n_experts == 2


def test_every_setting_is_described():
    described = describe_fields()
    assert [name for name, _, _ in described] == [field.name for field in fields(TrainConfig)]
    assert all(meaning.endswith(".") for _, _, meaning in described)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_sample_configs_are_valid(path):
    config = TrainConfig.from_toml(path)
    vocab_size = config.model.get("vocab_size", config.vocab_size)
    assert config.model_config(min(vocab_size, 50257)).n_layers >= 4
