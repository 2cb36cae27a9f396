"""GPT-2 124M trained with the Triton attention and with torch's: the same data, seed and steps must give the same loss curve within noise.

bfloat16, compiled, context 1024, real text (Python's documentation). The noise is what two of torch's own backends, flash and cuDNN or math, make of the
same run; the row's figure is the largest distance between our smoothed curve and torch's, its peer is that noise. Tokens/s of each run are printed.

    python benchmarks/flash_training_curve.py [--quick] [--steps 300] [--rows 32] [--no-compile]

About 5 minutes on an H200; writes results/flash_training_curve.jsonl and .svg. Without a CUDA device it says so and ends well; there the same
comparison runs on a tiny model in tests/llmcore/kernels.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from _report import RESULTS, finish
from gpu_training import CONTEXT, LR, VOCAB_SIZE, make_tokens
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmcore.attention import prefer
from llmcore.data import WindowSource
from llmcore.model import PRESETS, Transformer
from llmcore.train import TrainConfig, Trainer

COMMAND = "python benchmarks/flash_training_curve.py"
SMOOTHING_STEPS = 10
RUNS = {
    "llmcore": ("triton", None),
    "flash": ("sdpa", [SDPBackend.FLASH_ATTENTION]),
    "second": ("sdpa", [SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]),
}


def train(
    name: str, steps: int, rows: int, compiled: bool, tokens: np.ndarray, folder: Path
) -> tuple[np.ndarray, float]:
    """The losses of a run and its tokens/s, set-up and compiling left out."""
    backend, forced = RUNS[name]
    torch._dynamo.reset()
    config = TrainConfig(
        out_dir=str(folder / name), total_steps=steps, batch_size=rows, context=CONTEXT, lr=LR, min_lr=LR / 10, warmup_steps=min(50, steps // 4),
        progress=False, device="cuda", resume="never", precision="bf16", compile=compiled,
    )  # fmt: skip
    model = Transformer(PRESETS["gpt2-124m"].replace(vocab_size=VOCAB_SIZE), torch.Generator().manual_seed(0))
    trainer = Trainer(config, model, source=WindowSource(tokens, rows, CONTEXT))
    warm_up = min(20, steps // 2)
    with prefer(backend), sdpa_kernel(forced) if forced else contextlib.nullcontext(), trainer.running():
        for _ in range(warm_up):
            trainer.train_step()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps - warm_up):
            trainer.train_step()
        torch.cuda.synchronize()
    rate = (steps - warm_up) * rows * CONTEXT / (time.perf_counter() - start)
    return np.asarray([float(loss) for loss in trainer.losses]), rate


def smooth(losses: np.ndarray) -> np.ndarray:
    """Means over windows of ten steps."""
    return np.convolve(losses, np.full(SMOOTHING_STEPS, 1 / SMOOTHING_STEPS), mode="valid")


def draw(curves: dict[str, np.ndarray]) -> None:
    """The three curves, and their distances from torch's flash."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    for (name, losses), color in zip(curves.items(), ("#0072B2", "#E69F00", "#009E73")):
        left.plot(losses, color=color, label=name, linewidth=1)
        if name != "flash":
            right.plot(smooth(losses) - smooth(curves["flash"]), color=color, label=f"{name} - flash", linewidth=1)
    left.set(xlabel="step", ylabel="loss, nats per token", title="GPT-2 124M, bfloat16")
    right.set(xlabel="step", ylabel="difference of smoothed losses, nats", title="within noise?")
    left.legend()
    right.legend()
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "flash_training_curve.svg")


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="60 steps of 8 rows, not compiled")
    parser.add_argument("--steps", type=int, help="updates (default 300)")
    parser.add_argument("--rows", type=int, help="sequences per step (default 32)")
    parser.add_argument("--no-compile", action="store_true", help="eager")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no CUDA device here: on a machine with one, run {COMMAND}")
        return
    steps, rows = options.steps or (60 if options.quick else 300), options.rows or (8 if options.quick else 32)
    compiled = not (options.no_compile or options.quick)
    tokens = make_tokens()
    curves, rates = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in RUNS:
            curves[name], rates[name] = train(name, steps, rows, compiled, tokens, Path(folder))
            print(
                f"{name}: loss {curves[name][0]:.3f} to {curves[name][-1]:.3f}, {rates[name]:,.0f} tokens/s", flush=True
            )
            torch.cuda.empty_cache()
    draw(curves)
    ours, noise = (
        float(np.abs(smooth(curves[name]) - smooth(curves["flash"])).max()) for name in ("llmcore", "second")
    )
    row = {
        "name": f"GPT-2 124M, {steps} steps of {rows} x {CONTEXT}: largest distance of smoothed losses from torch's flash",
        "figure": round(ours, 5), "peer": round(noise, 5), "ratio": round(ours / max(noise, 1e-9), 3), "unit": "nats",
        "last_loss": {name: round(float(losses[-SMOOTHING_STEPS:].mean()), 4) for name, losses in curves.items()},
        "tokens_per_s": {name: round(rate) for name, rate in rates.items()},
    }  # fmt: skip
    finish("flash_training_curve", [row], compiled=compiled, quick=options.quick)


if __name__ == "__main__":
    main()
