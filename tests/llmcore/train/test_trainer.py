"""The trainer: exact resuming, stopping, refusing, and doing what its config says."""

import errno
import json
import os
import signal

import numpy as np
import pytest
import torch

from llmcore.data import WindowSource
from llmcore.model import ModelConfig, Transformer
from llmcore.train import NonFiniteError, TrainConfig, Trainer, checkpoint, latest_checkpoint
from llmcore.train.cli import main
from llmcore.train.report import read_log

TEXT = "In the beginning was the word, and the word was with Python. " * 60
SMALL = {
    "vocab_size": 270, "context": 12, "batch_size": 4, "total_steps": 9, "progress": False, "lr": 3e-3, "device": "cpu",
    "model": {"width": 16, "n_heads": 2, "n_layers": 2},
}  # fmt: skip
KINDS = {
    "plain": {},
    "dropout, accumulation": {"model": SMALL["model"] | {"dropout": 0.2}, "micro_batch": 2},
    "muon": {"optimizer": "muon", "schedule": "wsd", "warmup_steps": 2},
    "stream": {"data_order": "stream", "eval_fraction": 0.0, "shuffle_rows": 5, "document_masks": True},
    "packed": {"data_order": "packed"},
    "shuffled, bf16, checkpointed": {"data_order": "shuffled", "precision": "bf16", "activation_checkpointing": True},
    "fp16": {"precision": "fp16"},
    "moe, smoothing, z-loss": {
        "model": SMALL["model"] | {"moe": {"n_experts": 2, "top_k": 1, "expert_width": 8, "bias_balancing": True}},
        "label_smoothing": 0.1, "z_loss": 1e-3,
    },
    "multi-token prediction": {"model": SMALL["model"] | {"n_mtp": 1}},
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(3):
        (folder / f"{index}.txt").write_text(TEXT[index * 7 :])
    return str(folder)


@pytest.fixture
def make_config(corpus, tmp_path):
    def make(name: str = "run", **changes) -> TrainConfig:
        return TrainConfig(**{"out_dir": str(tmp_path / name), "train_data": corpus, **SMALL, **changes})

    return make


class Killed(BaseException):
    """Ends a run as abruptly as a signal that cannot be caught, without ending the tests."""


def run_until(config: TrainConfig, step: int) -> None:
    trainer = Trainer(config)
    train_step = trainer.train_step

    def step_or_die(stop: bool = False) -> bool:
        if trainer.step == step:
            raise Killed
        return train_step(stop)

    trainer.train_step = step_or_die
    with pytest.raises(Killed):
        trainer.fit()


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_config, kind):
    options = KINDS[kind] | {"save_every": 2}
    whole = Trainer(make_config("whole", **options)).fit()
    config = make_config("cut", **options)
    run_until(config, 5)
    assert latest_checkpoint(Trainer(config).checkpoints).name == "step_00000004"
    resumed = Trainer(config).fit()
    assert resumed.losses == whole.losses
    assert len(whole.losses) == 9
    assert all(torch.equal(one, two) for one, two in zip(weights(whole.model), weights(resumed.model)))
    logs = [
        [(line["step"], line["loss"], line["grad_norm"]) for line in read_log(f"{out}/log.jsonl")]
        for out in (config.out_dir, config.out_dir.replace("cut", "whole"))
    ]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 9


@pytest.mark.parametrize("forgotten", ["optimizer", "source"])
def test_that_a_run_which_forgets_something_is_told_apart(make_config, monkeypatch, forgotten):
    options = KINDS["stream"] | {"save_every": 2}
    whole = Trainer(make_config("whole", **options)).fit()
    config = make_config("cut", **options)
    run_until(config, 5)
    if forgotten == "optimizer":
        monkeypatch.setattr(checkpoint, "_load_optimizer", lambda *_: None)
    else:
        monkeypatch.setattr("llmcore.data.stream.TextStream.load_state", lambda *_: None)
    assert Trainer(config).fit().losses != whole.losses


def test_the_loss_falls(make_config):
    result = Trainer(make_config(total_steps=60, batch_size=8, context=24, warmup_steps=5, lr=1e-2)).fit()
    assert result.losses[-1] < 0.6 * result.losses[0]
    assert result.steps == 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint(make_config, number):
    whole = Trainer(make_config("whole")).fit()
    config = make_config("cut")
    trainer = Trainer(config)
    train_step = trainer.train_step
    handler = signal.getsignal(number)

    def step_and_signal(stop: bool = False) -> bool:
        if trainer.step == 3:
            os.kill(os.getpid(), number)
        return train_step(stop)

    trainer.train_step = step_and_signal
    result = trainer.fit()
    assert result.interrupted
    assert result.steps in (4, 5)
    assert result.checkpoint.name == f"step_{result.steps:08d}"
    assert signal.getsignal(number) is handler
    assert Trainer(config).fit().losses == whole.losses


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulation_changes_the_losses_by_rounding_only(make_config, micro_batch):
    whole = Trainer(make_config("whole")).fit()
    parts = Trainer(make_config("parts", micro_batch=micro_batch)).fit()
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=0, atol=1e-5)


def test_accumulation_weighs_tokens_not_micro_batches(make_config):
    """With masked targets the micro-batches differ in size; a mean of their means would be off by far more than 1e-5."""
    options = {"data_order": "packed", "context": 40}
    whole = Trainer(make_config("whole", **options)).fit()
    parts = Trainer(make_config("parts", micro_batch=1, **options)).fit()
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=0, atol=1e-5)


def test_activation_checkpointing_changes_nothing(make_config):
    options = {"model": SMALL["model"] | {"dropout": 0.3}}
    plain = Trainer(make_config("plain", **options)).fit()
    less_memory = Trainer(make_config("less", activation_checkpointing=True, **options)).fit()
    np.testing.assert_allclose(less_memory.losses, plain.losses, rtol=0, atol=1e-6)


def test_evaluations_samples_and_log_lines_are_kept(make_config):
    config = make_config(
        eval_every=4, eval_rows=6, sample_every=9, sample_tokens=5, sample_prompt="In", tensorboard=True
    )
    result = Trainer(config).fit()
    assert [step for step, _ in result.eval_losses] == [4, 8, 9]
    assert all(3 < loss < 7 for _, loss in result.eval_losses)
    assert [step for step, _ in result.samples] == [9]
    assert result.samples[0][1].startswith("In")
    records = read_log(f"{config.out_dir}/log.jsonl")
    assert [record["step"] for record in records if "loss" in record] == list(range(1, 10))
    assert [record["loss"] for record in records if "loss" in record] == result.losses
    assert sum("eval_loss" in record for record in records) == 3
    assert any(name.startswith("events") for name in os.listdir(f"{config.out_dir}/tensorboard"))


def test_a_run_repeats_itself_and_leaves_the_global_generator_alone(make_config):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = Trainer(make_config("one", **KINDS["dropout, accumulation"])).fit()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    two = Trainer(make_config("two", **KINDS["dropout, accumulation"])).fit()
    other = Trainer(make_config("other", seed=1, **KINDS["dropout, accumulation"])).fit()
    assert one.losses == two.losses
    assert one.losses != other.losses


def own_trainer(config: TrainConfig, step_of_poison: int | None = None, poison: str = "") -> Trainer:
    model = Transformer(ModelConfig(vocab_size=50, context=12, **SMALL["model"]), torch.Generator().manual_seed(0))
    trainer = Trainer(config, model, source=WindowSource(np.arange(400) % 50, 4, 12))
    if step_of_poison is not None:
        train_step = trainer.train_step

        def poisoned(stop: bool = False) -> bool:
            if trainer.step + 1 == step_of_poison:
                if poison == "parameter":
                    model.blocks[1].ffn.up_proj.weight.data[0, 0] = float("nan")
                elif poison == "forward":
                    model.blocks[1].attention.register_forward_hook(lambda *args: args[2] / 0)
                else:
                    model.blocks[0].attention.q_proj.weight.register_hook(lambda gradient: gradient * float("inf"))
            return train_step(stop)

        trainer.train_step = poisoned
    return trainer


@pytest.mark.parametrize(
    ("poison", "tensor"),
    [
        ("parameter", "parameter blocks.1.ffn.up_proj.weight"),
        ("forward", "output of blocks.1.attention"),
        ("gradient", "gradient of blocks.0.attention.q_proj.weight"),
    ],
)
def test_a_loss_that_is_not_finite_stops_names_step_and_tensor_and_keeps_the_good_checkpoint(
    make_config, poison, tensor
):
    config = make_config(save_every=2)
    with pytest.raises(NonFiniteError, match=rf"at step 4 .*first bad tensor is {tensor}.*step_00000002") as raised:
        own_trainer(config, 4, poison).fit()
    assert (raised.value.step, raised.value.tensor) == (4, tensor)
    kept = latest_checkpoint(Trainer(config).checkpoints)
    assert kept.name == "step_00000002"
    fresh = own_trainer(config)
    assert fresh.fit().steps == 9
    assert all(torch.isfinite(weight).all() for weight in weights(fresh.model))


def test_a_full_disk_stops_the_run_and_keeps_the_last_good_checkpoint(make_config, monkeypatch):
    config = make_config(save_every=3)
    write = checkpoint._write

    def write_until_full(path, content):
        if "00000006" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "_write", write_until_full)
    with pytest.raises(OSError, match=r"step_00000006.*No space left.*last good checkpoint is .*step_00000003"):
        Trainer(config).fit()
    monkeypatch.undo()
    assert Trainer(config).fit().losses == Trainer(make_config("whole")).fit().losses


def test_a_damaged_newest_checkpoint_is_refused_and_the_other_can_be_named(make_config):
    config = make_config(save_every=4)
    whole = Trainer(config).fit()
    newest = whole.checkpoint / "model.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"step_00000009.* is damaged.*last good one is .*step_00000008"):
        Trainer(config).fit()
    good = str(whole.checkpoint.with_name("step_00000008"))
    assert Trainer(config.replace(resume=good)).fit().losses == whole.losses
    assert Trainer(config).fit().losses == whole.losses


def test_resuming_takes_the_new_configs_settings(make_config):
    config = make_config(save_every=3, total_steps=3)
    Trainer(config).fit()
    longer = Trainer(config.replace(total_steps=5, lr=1e-4, min_lr=1e-4, weight_decay=0.7))
    longer.fit()
    assert longer.optimizer.param_groups[0]["lr"] == 1e-4
    assert longer.optimizer.param_groups[0]["weight_decay"] == 0.7
    assert len(longer.losses) == 5


def test_another_architecture_is_refused_on_resuming(make_config):
    Trainer(make_config()).fit()
    with pytest.raises(ValueError, match=r"another architecture: .*embedding\.weight is"):
        Trainer(make_config(model=SMALL["model"] | {"width": 32})).fit()


def test_resume_never_starts_anew_and_sets_the_other_runs_checkpoints_aside(make_config):
    config = make_config()
    first = Trainer(config).fit()
    anew = config.replace(resume="never")
    run_until(anew.replace(save_every=2), 3)
    assert [path.name for path in Trainer(config).checkpoints.iterdir()] == ["step_00000002"]
    assert (Trainer(config).checkpoints.with_name("checkpoints.abandoned") / "step_00000009").is_dir()
    assert Trainer(config).fit().losses == first.losses
    assert len(read_log(f"{config.out_dir}/log.jsonl")) == 9


def test_data_that_is_missing_empty_or_too_short_is_refused(make_config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'nowhere'.*python_documentation"):
        Trainer(make_config(train_data="nowhere")).fit()
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="needs at least 13 tokens"):
        Trainer(make_config(train_data=str(tmp_path / "short.txt"))).fit()
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"bad\.txt.*not UTF-8 at byte 0"):
        Trainer(make_config(train_data=str(tmp_path / "bad.txt"))).fit()
    with pytest.raises(ValueError, match="device"):
        Trainer(make_config(device="gpu")).fit()


def test_tokens_and_tokenizer_are_made_once_and_again_when_the_text_changes(make_config, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text(TEXT)
    config = make_config(train_data=str(text), total_steps=1)
    Trainer(config).fit()
    tokens = tmp_path / "run" / "data" / "train.tokens"
    first = (tokens.stat().st_mtime_ns, tokens.stat().st_ino)
    Trainer(config.replace(resume="never")).fit()
    assert (tokens.stat().st_mtime_ns, tokens.stat().st_ino) == first
    text.write_text(TEXT + "More words.")
    Trainer(config.replace(resume="never")).fit()
    assert (tokens.stat().st_mtime_ns, tokens.stat().st_ino) != first


def test_the_command_trains_from_a_file_with_changes(make_config, tmp_path, monkeypatch, capsys):
    config = make_config()
    path = tmp_path / "c.toml"
    values = {name: value for name, value in config.to_dict().items() if value is not None and name != "model"}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    path.write_text("\n".join([*lines, "[model]", "width = 16", "n_heads = 2", "n_layers = 1"]))

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["llmcore-train", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0

    assert run(str(path), "--set", "total_steps=2") == 0
    assert "step 2: loss" in capsys.readouterr().out
    assert run(str(path), "--set", "total_step=2") == 1
    assert "did you mean 'total_steps'" in capsys.readouterr().err
    assert run("missing.toml") == 1
    assert capsys.readouterr().err == "llmcore-train: no config file 'missing.toml'\n"
    assert run("--fields") == 0
    assert "label_smoothing = 0.0" in capsys.readouterr().out
