"""One DPO update on one CPU thread, the same pairs: llmcore's trainer against TRL's, the same weights.

A Llama of 0.8M parameters (width 128, feed-forward 344, 4 layers, 4 heads); 16 pairs, prompts of 12 to 24 tokens,
answers of 8 to 32. A step does the log-probabilities of policy and reference for both answers, the loss, the backward
pass, clipping at 1 and AdamW. llmcore's also pads the batch and writes its log; TRL's starts from padded tensors. Each
runs in a process of its own, by turns; figures are medians. Loss and gradient norm of the first step must agree, or
nothing is reported.

    python benchmarks/dpo_step.py [--quick] [--rounds 9]

Needs trl and transformers. Left out on purpose: reference log-probabilities found beforehand, which both can do.
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

import torch
from _report import answer, finish
from grpo_step import LR, compare, new_model, peer_options, quiet_peer, update_of, version
from torch import Tensor

from llmcore.align import DPOConfig, DPOTrainer

TARGET = 1.3
BETA, N_PAIRS = 0.1, 16


def data() -> list[dict[str, list[int]]]:
    """Rows of ids; their order is one that makes the first batch of both sides the same."""
    generator = torch.Generator().manual_seed(1)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(3, 256, (length,), generator=generator).tolist()

    return [{"prompt": ids(12, 24), "chosen": ids(8, 32), "rejected": ids(8, 32)} for _ in range(N_PAIRS)]


def own_step(folder: str, stack: contextlib.ExitStack) -> Callable[[], dict[str, float]]:
    """A function that does one update of llmcore's trainer and gives its figures; every batch is all pairs."""
    config = DPOConfig(
        out_dir=folder, total_steps=10**6, batch_size=N_PAIRS, beta=BETA, lr=LR, betas=(0.9, 0.999), progress=False, device="cpu",
        resume="never",
    )  # fmt: skip
    trainer = DPOTrainer(config, new_model(), data())
    stack.enter_context(trainer.running())
    return trainer.train_step


def peer_step(folder: str) -> Callable[[], dict[str, float]]:
    """A function that does one update with TRL's loss."""
    model, tokenizer = quiet_peer(folder)
    import trl
    from datasets import Dataset

    rows = Dataset.from_dict({name: ["w3 w4 w5", "w3 w4 w5"] for name in ("prompt", "chosen", "rejected")})
    args = trl.DPOConfig(**peer_options(folder), per_device_train_batch_size=N_PAIRS, beta=BETA, loss_type=["sigmoid"])
    trainer = trl.DPOTrainer(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    pairs = data()
    both = [(row["prompt"], row[name]) for name in ("chosen", "rejected") for row in pairs]
    width = max(len(prompt) + len(response) for prompt, response in both)

    def padded(values: list[list[int]]) -> Tensor:
        return torch.tensor([row + [0] * (width - len(row)) for row in values])

    inputs = {
        "input_ids": padded([prompt + response for prompt, response in both]),
        "attention_mask": padded([[1] * (len(prompt) + len(response)) for prompt, response in both]),
        "completion_mask": padded([[0] * len(prompt) + [1] * len(response) for prompt, response in both]),
    }
    return update_of(trainer, lambda: trainer.compute_loss(trainer.model, dict(inputs)))


def serve(side: str) -> None:
    """What a child process does: steps of one side, whenever it is asked; first it says the figures of its first step."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with contextlib.redirect_stdout(sys.stderr):
            step = own_step(folder, stack) if side == "llmcore" else peer_step(folder)
            first = step()
        Path(os.environ["FIRST_STEP"]).write_text(f"{first['loss']} {first['grad_norm']}", encoding="utf-8")
        answer(step, each=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    parser.add_argument("--rounds", type=int, help="timed bursts of each (default 9, quick 5)")
    parser.add_argument("--serve", metavar="SIDE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    rounds = options.rounds or (5 if options.quick else 9)
    torch.set_num_threads(1)
    seconds = compare(__file__, [[]], rounds, tolerance=1e-4)[0]
    row = {
        "name": "DPO step, 0.8M Llama, 16 pairs, 1 thread",
        "figure": round(1 / seconds["llmcore"], 2),
        "peer": round(1 / seconds["trl"], 2),
        "ratio": round(seconds["trl"] / seconds["llmcore"], 3),
        "unit": "steps/s",
        "target": TARGET,
    }
    finish("dpo_step", [row], rounds=rounds, quick=options.quick, peer_is=f"trl {version('trl')}")


if __name__ == "__main__":
    main()
