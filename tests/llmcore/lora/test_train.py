"""Adapters through the trainer: what learns, resuming, what a run starts from, and the settings' mistakes."""

import copy
from pathlib import Path

import pytest
import torch

from llmcore.lora import disabled, load_adapter, lora_layers, merge, unload
from llmcore.model import Transformer, load_pretrained, save_pretrained
from llmcore.quantize import Nf4Linear
from llmcore.train import TrainConfig, Trainer, latest_checkpoint
from llmcore.train.cli import main
from llmcore.train.config import describe_fields
from llmcore.train.start import start_model

TEXT = "In the beginning was the word, and the word was with Python. " * 40
SMALL = {
    "vocab_size": 270, "context": 12, "batch_size": 4, "total_steps": 6, "progress": False, "lr": 3e-3, "device": "cpu",
    "model": {"width": 16, "n_heads": 2, "n_layers": 2, "ffn_width": 24},
}  # fmt: skip
LORA = {"rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def make_config(corpus, tmp_path):
    def make(name: str, **changes) -> TrainConfig:
        return TrainConfig.from_dict({"out_dir": str(tmp_path / name), "train_data": corpus, **SMALL, **changes})

    return make


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """A finished run to start from, whose model has half learned the text."""
    folder = str(tmp_path_factory.mktemp("base"))
    config = TrainConfig.from_dict({"out_dir": folder, "train_data": corpus, **SMALL, "total_steps": 60, "lr": 1e-2})
    return Trainer(config).fit()


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "extra", [{}, {"dora": True, "lr_ratio": 4.0}, {"quantize": "nf4"}, {"quantize": "int8", "dropout": 0.1}]
)
def test_adapters_learn_and_the_checkpoints_weights_stay(make_config, base, tmp_path, extra):
    other = tmp_path / "other.txt"
    other.write_text("Zebras quietly jump over xylophones. " * 50)
    config = make_config(
        "tuned", train_data=str(other), init_from=str(base.checkpoint), lora=LORA | extra, lr=3e-2, total_steps=12
    )
    result = Trainer(config).fit()
    assert result.losses[-1] < result.losses[0] - 0.1
    ids = torch.arange(9)[None]
    with torch.no_grad(), disabled(result.model):
        plain = result.model(ids)
    if "quantize" in extra:
        assert any(
            "Linear" in type(layer.base).__name__ and layer.base.method == extra["quantize"]
            for layer in lora_layers(result.model).values()
        )
    else:
        torch.testing.assert_close(plain, base.model(ids))
        again = copy.deepcopy(base.model)
        load_adapter(again, tmp_path / "tuned" / "adapter")
        torch.testing.assert_close(again(ids), result.model(ids))
    assert (result.model(ids) - plain).abs().max() > 1e-3
    assert {name for name, p in result.model.named_parameters() if p.requires_grad} == {
        f"{path}.adapters.default.{leaf}"
        for path in lora_layers(result.model)
        for leaf in (("lora_a", "lora_b", "magnitude") if extra.get("dora") else ("lora_a", "lora_b"))
    }


@pytest.mark.parametrize("extra", [{}, {"quantize": "nf4", "dropout": 0.2}, {"lr_ratio": 8.0}])
def test_a_resumed_run_equals_the_uninterrupted_one(make_config, base, extra):
    options = {"init_from": str(base.checkpoint), "lora": LORA | extra, "save_every": 3}
    whole = Trainer(make_config("whole", **options)).fit()
    cut = make_config("cut", **options)
    with Trainer(cut).running() as trainer:
        for _ in range(3):
            trainer.train_step()
        trainer._save()
    assert latest_checkpoint(Trainer(cut).checkpoints).name == "step_00000003"
    resumed = Trainer(cut).fit()
    assert resumed.losses == whole.losses
    ours, theirs = weights(whole.model), weights(resumed.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_b_learns_faster_by_the_ratio(make_config, base):
    config = make_config("ratio", init_from=str(base.checkpoint), lora=LORA | {"lr_ratio": 8.0}, schedule="constant")
    with Trainer(config).running() as trainer:
        trainer.train_step()
        assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([3e-3, 24e-3])
        layer = next(iter(lora_layers(trainer.model).values()))
        assert any(parameter is layer.lora_b for parameter in trainer.optimizer.param_groups[1]["params"])


def test_a_run_starts_from_a_hugging_face_folder_with_its_tokenizer(make_config, base, tmp_path):
    folder = tmp_path / "hf"
    save_pretrained(base.model, folder)
    base.tokenizer.to_tokenizer_json(folder / "tokenizer.json")
    config = make_config("tuned", init_from=str(folder), lora=LORA, total_steps=1)
    result = Trainer(config).fit()
    assert result.tokenizer.encode("the word") == base.tokenizer.encode("the word")
    assert result.losses[0] < 4.5 < torch.tensor(270.0).log(), "it starts where the base was, not from noise"
    merge(result.model)
    save_pretrained(unload(result.model), tmp_path / "merged")
    ids = torch.arange(9)[None]
    torch.testing.assert_close(load_pretrained(tmp_path / "merged")(ids), result.model(ids))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"there is no tokenizer.json with .*name the model's own"):
        Trainer(make_config("other", init_from=str(folder), lora=LORA)).fit()


def test_all_weights_can_start_from_a_checkpoint_too(make_config, base):
    result = Trainer(make_config("more", init_from=str(base.checkpoint), total_steps=1, lr=0.0, min_lr=0.0)).fit()
    ours, theirs = weights(base.model), weights(result.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(ValueError, match="vocabulary of 270, the data's ids go to"):
        start_model(make_config("more", init_from=str(base.checkpoint)), 300)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        start_model(make_config("more", init_from="nowhere"), 270)


def test_the_command_line_takes_a_lora_table(make_config, base, corpus, tmp_path, capsys, monkeypatch):
    path = tmp_path / "lora.toml"
    path.write_text(
        f'out_dir = "{(tmp_path / "cli").as_posix()}"\ntrain_data = "{corpus}"\ninit_from = "{base.checkpoint.as_posix()}"\n'
        'context = 12\nbatch_size = 4\ntotal_steps = 2\ndevice = "cpu"\nprogress = false\n'
        '[lora]\nrank = 2\ntargets = ["q_proj"]\nquantize = "nf4"\n'
    )
    monkeypatch.setattr("sys.argv", ["llmcore-train", str(path), "--set", "lora.rank=3", "--set", "lora.dora=true"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert "step 2: loss" in capsys.readouterr().out
    again = Trainer(TrainConfig.from_toml(path)).config.replace(init_from=None)
    assert again.lora == {"rank": 2, "targets": ["q_proj"], "quantize": "nf4"}
    fresh = Transformer(base.model.config)
    config = load_adapter(fresh, tmp_path / "cli" / "adapter")
    assert (config.rank, config.dora, config.targets) == (3, True, ("q_proj",))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"lora": {"rnak": 2}}, "no LoRA setting 'rnak'; there are rank, alpha, targets"),
        ({"lora": {"rank": 0}}, "rank must be a whole number of at least 1, got 0"),
        ({"lora": {"quantize": "int3"}}, "lora.quantize must be 'nf4' or 'int8', got 'int3'"),
        ({"lora": {"lr_ratio": 0}}, "lora.lr_ratio must be positive, got 0"),
        ({"lora": {"lr_ratio": 2.0}, "optimizer": "muon"}, "lora.lr_ratio goes with adamw, got optimizer='muon'"),
        ({"lora": {"rank": 2}, "parallel": "fsdp"}, "adapters go with ddp"),
    ],
)
def test_mistakes_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        TrainConfig.from_dict(settings)


def test_settings_are_listed_and_survive_json():
    names = {name for name, _, _ in describe_fields()}
    assert {"lora", "init_from"} <= names
    config = TrainConfig(lora={"rank": 2, "targets": ["q_proj"]}, init_from="somewhere")
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_the_base_of_a_quantized_run_is_packed(make_config, base):
    config = make_config("packed", init_from=str(base.checkpoint), lora=LORA | {"quantize": "nf4"}, total_steps=1)
    model = Trainer(config).fit().model
    assert sum(isinstance(module, Nf4Linear) for module in model.modules()) == 14


def test_the_examples_settings_are_valid():
    config = TrainConfig.from_toml(Path(__file__).resolve().parents[3] / "examples" / "lora" / "train.toml")
    assert config.lora_config().rank == 8
    assert config.lora["quantize"] == "nf4"
