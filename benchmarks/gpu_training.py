"""Training GPT-2 124M on one GPU, bfloat16, compiled, context 1024: llmcore's trainer against the plain nanoGPT-style model, same shapes.

Whole optimizer steps are timed (data, loss, clipping, AdamW, log), wall clock with one synchronisation per burst, after 20 steps and
all compilation, medians over bursts that take turns. Tokens are a real text (Python's documentation) so that the loss must fall, or the row is
refused. Vocabulary 50304. Prints tokens/s, TFLOP/s and MFU by nanoGPT's formula (6N + 12 L d T) and by the causal-exact count, against
the published peak and against a matrix product measured in the same run.

    python benchmarks/gpu_training.py [--quick] [--rows 64] [--rounds 10] [--build-up] [--peer path/to/nanoGPT/model.py]

--build-up also prints the table: eager fp32, bf16, compiled. Needs CUDA and says so where there is none.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from _plain_gpt import make_peer, peer_optimizer
from _report import finish, medians

from llmcore import accounting
from llmcore.data import WindowSource
from llmcore.model import PRESETS, Transformer
from llmcore.text import python_documentation
from llmcore.train import TrainConfig, Trainer

TARGET_RATIO, TARGET_RATE = 1.2, 520_000
VOCAB_SIZE, CONTEXT, LR = 50304, 1024, 6e-4
BURST = 5


def make_tokens() -> np.ndarray:
    """Bytes of Python's documentation, spread over the vocabulary so that the whole head is used."""
    letters = np.frombuffer(python_documentation().encode(), dtype=np.uint8).astype(np.int64)
    return ((letters[:-1] * 197 + letters[1:]) % 50257).astype(np.uint16)


def llmcore_step(stack: ExitStack, rows: int, tokens: np.ndarray, **settings) -> tuple[Callable[[], None], Trainer]:
    """A burst of steps of the trainer, and the trainer."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    config = TrainConfig(
        out_dir=folder, total_steps=10**6, batch_size=rows, context=CONTEXT, lr=LR, min_lr=0.0, schedule="constant", warmup_steps=20,
        progress=False, device="cuda", resume="never", **settings,
    )  # fmt: skip
    model = Transformer(PRESETS["gpt2-124m"].replace(vocab_size=VOCAB_SIZE), torch.Generator().manual_seed(0))
    trainer = Trainer(config, model, source=WindowSource(tokens, rows, CONTEXT))
    stack.enter_context(trainer.running())

    def burst() -> None:
        for _ in range(BURST):
            trainer.train_step()
        torch.cuda.synchronize()

    return burst, trainer


def peer_step(rows: int, tokens: np.ndarray, path: str | None) -> Callable[[], None]:
    """A burst of steps of the plain loop: compiled, bf16 autocast, fused AdamW, pinned batches."""
    model = make_peer(path, VOCAB_SIZE, CONTEXT, 768, 12, 12).cuda()
    optimizer = peer_optimizer(model, LR, fused=True)
    forward = torch.compile(model)
    data = torch.from_numpy(tokens.astype(np.int64))

    def load() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - CONTEXT, (rows,))
        windows = torch.stack([data[at : at + CONTEXT + 1] for at in starts]).pin_memory().cuda(non_blocking=True)
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def burst() -> None:
        for _ in range(BURST):
            ids, targets = load()
            with torch.autocast("cuda", dtype=torch.bfloat16):
                _, loss = forward(ids, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()

    return burst


def matmul_flops() -> float:
    """FLOP/s of an 8192-cubed bfloat16 product, median."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def run() -> None:
        for _ in range(10):
            a @ b
        torch.cuda.synchronize()

    return 10 * 2 * 8192**3 / medians({"matmul": run}, 5)["matmul"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--rows", type=int, default=64, help="sequences per step")
    parser.add_argument("--rounds", type=int, help="timed bursts of 5 steps (default 20, quick 5)")
    parser.add_argument("--build-up", action="store_true", help="also eager fp32, tf32 and bf16")
    parser.add_argument("--peer", help="nanoGPT's model.py, to stand in for the plain GPT")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device; training_step.py measures a step on a CPU")
    rounds = options.rounds or (5 if options.quick else 20)
    torch.set_float32_matmul_precision("high")
    tokens = make_tokens()
    n_tokens = BURST * options.rows * CONTEXT
    config = PRESETS["gpt2-124m"].replace(vocab_size=VOCAB_SIZE)
    rows = []
    with ExitStack() as stack:
        ours, trainer = llmcore_step(stack, options.rows, tokens, precision="bf16", compile=True)
        runs = {"llmcore": ours, "peer": peer_step(options.rows, tokens, options.peer)}
        seconds = medians(runs, rounds, warm_up=4)
        if not trainer.losses[-1] < trainer.losses[0] - 1:
            raise SystemExit(
                f"the loss went from {trainer.losses[0]:.2f} to {trainer.losses[-1]:.2f}: such a run does not count"
            )
        rates = {name: n_tokens / one for name, one in seconds.items()}
        measured = matmul_flops()
        row = {
            "name": f"GPT-2 124M training, {options.rows} x {CONTEXT}",
            "figure": round(rates["llmcore"]),
            "peer": round(rates["peer"]),
            "ratio": round(rates["llmcore"] / rates["peer"], 3),
            "unit": "tokens/s",
            "target": TARGET_RATIO,
            "target_rate": TARGET_RATE,
            "matmul_tflops": round(measured / 1e12, 1),
            "loss": [round(trainer.losses[0], 3), round(trainer.losses[-1], 3)],
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        }
        for formula in ("nanogpt", "exact"):
            flops = rates["llmcore"] * accounting.flops_per_token(config, CONTEXT, formula=formula)
            row[f"tflops_{formula}"] = round(flops / 1e12, 1)
            row[f"share_of_matmul_{formula}"] = round(flops / measured, 3)
            peak = trainer.report.peak_flops
            row[f"mfu_{formula}"] = None if peak is None else round(flops / peak, 4)
        rows.append(row)
    if options.build_up:
        for label, settings in (
            ("eager fp32", {}),
            ("eager tf32", {"precision": "tf32"}),
            ("eager bf16", {"precision": "bf16"}),
        ):
            with ExitStack() as stack:
                burst, _ = llmcore_step(stack, options.rows, tokens, **settings)
                rate = n_tokens / medians({"run": burst}, 5, warm_up=2)["run"]
                rows.append({"name": label, "figure": round(rate), "peer": None, "ratio": None, "unit": "tokens/s"})
            torch.cuda.empty_cache()
    finish("gpu_training", rows, rounds=rounds, quick=options.quick, peer_is="nanoGPT" if options.peer else "plain GPT")


if __name__ == "__main__":
    main()
