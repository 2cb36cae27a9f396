"""Checkpoints: whole or absent, damage noticed, other architectures named."""

import errno
import os

import pytest
import torch
from torch import nn

from llmcore.optim import AdamW, Muon, parameter_groups
from llmcore.train import latest_checkpoint, load_checkpoint, save_checkpoint
from llmcore.train.checkpoint import list_checkpoints, remove_leftovers, step_path


def make(seed: int = 0, width: int = 4):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2))
    return model, AdamW(parameter_groups(model, 0.1), lr=0.1)


def train(model, optimizer, n_steps: int = 3) -> None:
    for index in range(n_steps):
        optimizer.zero_grad()
        model(torch.full((2, 3), 0.1 * index + 0.1)).square().sum().backward()
        optimizer.step()


@pytest.fixture
def saved(tmp_path):
    model, optimizer = make()
    train(model, optimizer)
    for step in (3, 6):
        save_checkpoint(
            model, optimizer, step, step_path(tmp_path, step), extra={"losses": torch.ones(2), "n": [1, "a"]}
        )
    return tmp_path


def test_model_optimizer_step_and_extra_come_back_exactly(saved):
    model, optimizer = make()
    train(model, optimizer)
    other_model, other_optimizer = make(seed=1)
    loaded = load_checkpoint(step_path(saved, 6), other_model, other_optimizer)
    assert loaded.step == 6
    assert loaded.extra["n"] == [1, "a"]
    train(model, optimizer)
    train(other_model, other_optimizer)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other_model.parameters()))


def test_without_the_optimizer_state_that_test_would_fail(saved):
    model, optimizer = make()
    train(model, optimizer)
    other_model, other_optimizer = make(seed=1)
    load_checkpoint(step_path(saved, 6), other_model)
    train(model, optimizer)
    train(other_model, other_optimizer)
    assert not all(torch.equal(one, two) for one, two in zip(model.parameters(), other_model.parameters()))


@pytest.mark.parametrize("name", ["model.pt", "optimizer.pt", "extra.pt"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_last_good_one_offered(saved, name, damage):
    path = step_path(saved, 6)
    content = bytearray((path / name).read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "cut":
        content = content[:-10]
    (path / name).unlink()
    if damage != "remove":
        (path / name).write_bytes(content)
    model, optimizer = make(seed=1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=rf"step_00000006.* is damaged: {name} .*last good one is .*step_00000003"):
        load_checkpoint(path, model, optimizer)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), before))


def test_damaged_metadata_and_lone_checkpoints_are_reported(saved):
    (step_path(saved, 3) / "meta.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"step_00000003.*meta\.json is missing or unreadable; the last good one is .*06"
    ):
        load_checkpoint(step_path(saved, 3))
    (step_path(saved, 6) / "model.pt").unlink()
    with pytest.raises(ValueError, match="there is no other one beside it"):
        load_checkpoint(step_path(saved, 6))
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        load_checkpoint(saved / "nothing")


def test_another_architecture_is_named_tensor_by_tensor(saved):
    model, optimizer = make(width=5)
    with pytest.raises(ValueError, match=r"another architecture: 0\.weight is \(4, 3\) and should be \(5, 3\)"):
        load_checkpoint(step_path(saved, 6), model, optimizer)
    with pytest.raises(ValueError, match=r"missing 3\.bias, 3\.weight; unexpected 2\.bias, 2\.weight"):
        load_checkpoint(step_path(saved, 6), nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Tanh(), nn.Linear(4, 2)))


def test_another_optimizer_is_refused(saved):
    model, _ = make()
    other = Muon(parameter_groups(model, 0.1, muon=True))
    other.param_groups.reverse()
    with pytest.raises(ValueError, match="groups its parameters otherwise"):
        load_checkpoint(step_path(saved, 6), model, other)


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_what_was_there_and_no_rest(saved, monkeypatch):
    model, optimizer = make()
    before = sorted(path.name for path in saved.rglob("*"))
    monkeypatch.setattr(os, "fsync", full_disk)
    for step in (6, 9):
        with pytest.raises(OSError, match=rf"cannot write checkpoint .*step_0000000{step}.*No space left") as raised:
            save_checkpoint(model, optimizer, step, step_path(saved, step))
        assert raised.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert sorted(path.name for path in saved.rglob("*")) == before
    assert load_checkpoint(step_path(saved, 6), *make()).step == 6


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_write_that_the_disk_refuses_is_an_os_error(tmp_path, monkeypatch):
    from llmcore.train import checkpoint

    real_open = open
    monkeypatch.setattr(
        checkpoint,
        "open",
        lambda path, mode, **k: real_open("/dev/full" if mode == "wb" else path, mode, **k),
        raising=False,
    )
    with pytest.raises(OSError, match="cannot write checkpoint"):
        save_checkpoint(*make(), 1, tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_saving_twice_replaces_and_half_written_ones_are_swept(saved):
    model, optimizer = make()
    save_checkpoint(model, optimizer, 7, step_path(saved, 6))
    assert load_checkpoint(step_path(saved, 6)).step == 7
    (saved / ".step_00000009.writing").mkdir()
    (saved / "step_00000008").mkdir()
    assert latest_checkpoint(saved) == step_path(saved, 6)
    remove_leftovers(saved, keep=1)
    assert list_checkpoints(saved) == [step_path(saved, 6)]
    assert not (saved / ".step_00000009.writing").exists()
    assert latest_checkpoint(saved / "none") is None
