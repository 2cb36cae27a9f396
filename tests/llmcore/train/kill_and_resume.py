"""Kill a training run with SIGKILL at random moments, resume it each time, and compare with a run that nobody touched.

    python tests/llmcore/train/kill_and_resume.py [--kills 20] [--seed 0]

Each child draws the moment of its death: before some step, between gradient and update, or while some file of a checkpoint is being
written or renamed. Prints one line per kill and ends with an error unless losses and weights agree to the last bit. Needs fork.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from llmcore.train import TrainConfig, Trainer, checkpoint, load_checkpoint

STEPS = 40


def make_config(folder: Path, name: str) -> TrainConfig:
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("To be killed and to go on as if nothing had been. " * 80)
    return TrainConfig(
        out_dir=str(folder / name), train_data=str(text), vocab_size=270, context=12, batch_size=4, total_steps=STEPS, save_every=3,
        progress=False, device="cpu", data_order="stream", eval_fraction=0.0, shuffle_rows=4, optimizer="muon",
        model={"width": 16, "n_heads": 2, "n_layers": 1, "dropout": 0.1},
    )  # fmt: skip


def die_at(trainer: Trainer, random: random.Random) -> str:
    """Arrange the death of this process within the next few steps; what it will be."""
    place = random.choice(("step", "update", "write", "rename"))
    countdown = [random.randrange(1, 9)]

    def counted(function):
        def call(*arguments, **options):
            countdown[0] -= 1
            if countdown[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    if place == "step":
        trainer.train_step = counted(trainer.train_step)
    elif place == "update":
        trainer._update = counted(trainer._update)
    elif place == "write":
        checkpoint._sync = counted(checkpoint._sync)
    else:
        os.rename = counted(os.rename)
    return f"{place} {countdown[0]}"


def in_child(action) -> int:
    """Exit status of the action in a forked process."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def kill_and_resume(folder: Path, kills: int, seed: int) -> int:
    """Number of kills after which the finished run still equals the untouched one.

    Raises: AssertionError when it does not.
    """
    torch.set_num_threads(1)
    whole, cut = make_config(folder, "whole"), make_config(folder, "cut")
    assert in_child(lambda: Trainer(whole).fit()) == 0
    done = 0
    for attempt in range(100 * kills):
        generator = random.Random(f"{seed} {attempt}")
        trainer = Trainer(cut)
        moment = die_at(trainer, generator) if done < kills else "none"
        status = in_child(trainer.fit)
        os.rename, checkpoint._sync = REAL_RENAME, REAL_SYNC
        if os.WIFSIGNALED(status):
            done += 1
            print(f"kill {done}: at {moment}", flush=True)
        elif done >= kills:
            break
        elif status == 0:  # it got to the end unharmed: begin the killed run anew
            shutil.rmtree(cut.out_dir)
    ends = [load_checkpoint(checkpoint.latest_checkpoint(Path(run.out_dir) / "checkpoints")) for run in (whole, cut)]
    assert [end.step for end in ends] == [STEPS, STEPS]
    assert torch.equal(ends[0].extra["losses"], ends[1].extra["losses"]), "losses differ"
    models = [torch.load(end.path / "model.pt", weights_only=True) for end in ends]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0]), "weights differ"
    return done


REAL_RENAME, REAL_SYNC = os.rename, checkpoint._sync

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        survived = kill_and_resume(Path(temporary), options.kills, options.seed)
    print(f"{survived} kills: losses and weights equal the untouched run's to the last bit")
