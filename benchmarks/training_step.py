"""One training step on one CPU thread, eager, float32: llmcore's trainer against a plain nanoGPT-style loop, same shapes.

Two sizes of GPT-2: 0.8M (4 layers, width 128, 12 rows of 64 tokens, vocabulary 65) and 10M (6 layers, width 384, 8 rows of 64). A step
is forward, loss, backward, clipping at 1, AdamW; llmcore's also reads the batch, checks the loss and writes the log. Each runs in a
process of its own, by turns, four steps at a time; figures are medians.

    python benchmarks/training_step.py [--quick] [--rounds 15] [--peer path/to/nanoGPT/model.py]

Left out on purpose: torch.compile, mixed precision, several threads.
"""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from _plain_gpt import make_peer, peer_optimizer
from _report import answer, finish, medians_of_processes

from llmcore.data import WindowSource
from llmcore.model import ModelConfig, Transformer
from llmcore.train import TrainConfig, Trainer

TARGET = 1.1
SIZES = {
    "0.8M GPT": {"vocab_size": 65, "context": 64, "width": 128, "n_layers": 4, "n_heads": 4},
    "10M GPT": {"vocab_size": 65, "context": 64, "width": 384, "n_layers": 6, "n_heads": 6},
}
ROWS = {"0.8M GPT": 12, "10M GPT": 8}


def peer_step(shape: dict[str, int], rows: int, tokens: np.ndarray, path: str | None) -> Callable[[], float]:
    """A function that does one step of the plain loop."""
    model = make_peer(path, **shape)
    optimizer = peer_optimizer(model, lr=1e-4)
    data = torch.from_numpy(tokens.astype(np.int64))

    def step() -> float:
        starts = torch.randint(len(data) - shape["context"], (rows,))
        ids = torch.stack([data[at : at + shape["context"]] for at in starts])
        targets = torch.stack([data[at + 1 : at + 1 + shape["context"]] for at in starts])
        _, loss = model(ids, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def make_trainer(shape: dict[str, int], rows: int, tokens: np.ndarray, folder: str) -> Trainer:
    """llmcore's trainer for the same shapes."""
    config = TrainConfig(
        out_dir=folder, total_steps=10**6, batch_size=rows, context=shape["context"], lr=1e-4, min_lr=0.0, schedule="constant",
        progress=False, device="cpu", resume="never",
    )  # fmt: skip
    architecture = ModelConfig(**shape, position="learned", norm="layer", norm_eps=1e-5, ffn="gelu")
    model = Transformer(architecture, torch.Generator().manual_seed(0))
    return Trainer(config, model, source=WindowSource(tokens, rows, shape["context"]))


def serve(side: str, name: str, peer: str | None) -> None:
    """What a child process does: steps of one side, whenever it is asked."""
    torch.set_num_threads(1)
    shape = SIZES[name]
    tokens = np.random.default_rng(0).integers(shape["vocab_size"], size=100_000, dtype=np.uint16)
    if side == "peer":
        with contextlib.redirect_stdout(sys.stderr):
            step = peer_step(shape, ROWS[name], tokens, peer)
        answer(step, each=4)
        return
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(shape, ROWS[name], tokens, folder)
        with trainer.running():
            answer(trainer.train_step, each=4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small size and few rounds, for CI")
    parser.add_argument("--rounds", type=int, help="timed bursts of each (default 15, quick 5)")
    parser.add_argument("--peer", help="nanoGPT's model.py, to stand in for the plain GPT of this benchmark")
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(*options.serve, options.peer)
        return
    rounds = options.rounds or (5 if options.quick else 15)
    torch.set_num_threads(1)
    rows = []
    for name in SIZES:
        if options.quick and name != "0.8M GPT":
            continue
        own = [sys.executable, __file__, *(["--peer", options.peer] if options.peer else []), "--serve"]
        seconds = medians_of_processes({side: [*own, side, name] for side in ("llmcore", "peer")}, rounds)
        rows.append(
            {
                "name": f"training step, {name}, 1 thread",
                "figure": round(1 / seconds["llmcore"], 2),
                "peer": round(1 / seconds["peer"], 2),
                "ratio": round(seconds["peer"] / seconds["llmcore"], 3),
                "unit": "steps/s",
                "target": TARGET,
            }
        )
    peer_is = "nanoGPT's model.py" if options.peer else "plain GPT"
    finish("training_step", rows, rounds=rounds, quick=options.quick, peer_is=peer_is)


if __name__ == "__main__":
    main()
