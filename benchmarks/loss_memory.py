"""Peak memory and time of the loss over all logits: llmcore's chunked cross-entropy against the plain one, same inputs, same gradients.

Forward and backward from hidden states and head to both gradients; float32 on a CPU (2,048 tokens of a 32,768 vocabulary, width 256),
bfloat16 on a GPU (16,384 tokens of a 131,072 vocabulary, width 2,048). Peaks are over what the inputs take, each measured in a process of
its own on a CPU. Gradients must agree or the row is refused.

    python benchmarks/loss_memory.py [--quick] [--full] [--tokens N] [--rounds 5]

--full measures the GPU's vocabulary, at width 512, on the CPU: plain logits of all 16,384 tokens need about 33 GB there, `--tokens 4096` a
quarter of that. Left out on purpose: compiled plain cross-entropy.
"""

import argparse
import os
import resource
import sys
import threading
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from _report import finish, medians
from torch import Tensor

from llmcore.train import linear_cross_entropy

MEMORY_TARGET, TIME_TARGET = 0.4, 1.3


def make_inputs(
    tokens: int, vocab_size: int, width: int, device: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and targets."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator).to(device, dtype).requires_grad_()
    head = (torch.randn(vocab_size, width, generator=generator) * width**-0.5).to(device, dtype).requires_grad_()
    return hidden, head, torch.randint(vocab_size, (tokens,), generator=generator).to(device)


def plain(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by way of all logits."""
    logits = hidden @ head.T
    return torch.autograd.grad(F.cross_entropy(logits.float(), targets), (hidden, head))


def chunked(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients chunk by chunk."""
    compiled = hidden.is_cuda
    return torch.autograd.grad(
        linear_cross_entropy(hidden, head, targets, compiled=compiled)[0] / len(targets), (hidden, head)
    )


METHODS = {"plain": plain, "llmcore": chunked}


def cpu_peak(name: str, sizes: tuple[int, int, int]) -> float:
    """Bytes at the peak above what the inputs take, in this process, which must be fresh."""
    torch.set_num_threads(1)
    inputs = make_inputs(*sizes, "cpu", torch.float32)
    METHODS[name](*make_inputs(8, 16, sizes[2], "cpu", torch.float32))  # libraries loaded
    before = _resident_bytes()
    highest, done = before, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, _resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    METHODS[name](*inputs)
    done.set()
    watcher.join()
    return highest - before


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def gpu_peak(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    """Bytes at the peak above what the inputs take."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    METHODS[name](*inputs)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def timed(name: str, inputs: tuple[Tensor, Tensor, Tensor]):
    """A function that runs the method once, to its end."""

    def run() -> None:
        METHODS[name](*inputs)
        if inputs[0].is_cuda:
            torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small size, for CI")
    parser.add_argument("--full", action="store_true", help="16k tokens of a 128k vocabulary, also on a CPU")
    parser.add_argument("--tokens", type=int, help="tokens of --full (default 16,384)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    big = (options.tokens or 16_384, 131_072, 2048 if on_gpu else 512)
    sizes = big if on_gpu or options.full else (2_048, 32_768, 256)
    sizes = (1_024, 16_384, 64) if options.quick else sizes
    inputs = make_inputs(*sizes, "cuda" if on_gpu else "cpu", torch.bfloat16 if on_gpu else torch.float32)
    worst = max((one.float() - two.float()).abs().max().item() for one, two in zip(plain(*inputs), chunked(*inputs)))
    limit = 1e-3 if on_gpu else 1e-5
    if worst > limit:
        raise SystemExit(f"gradients differ by {worst:.1e}, more than {limit}: such figures are not compared")
    if on_gpu:
        peaks = {name: gpu_peak(name, inputs) for name in METHODS}
    else:
        peaks = {}
        for name in METHODS:
            with get_context("spawn").Pool(1) as pool:
                peaks[name] = pool.apply(cpu_peak, (name, sizes))
    seconds = medians({name: timed(name, inputs) for name in METHODS}, options.rounds)
    shape = "{:,} tokens, vocabulary {:,}, width {:,}".format(*sizes)
    rows = [
        {
            "name": f"loss peak memory, {shape}",
            "figure": round(peaks["llmcore"] / 2**20, 1),
            "peer": round(peaks["plain"] / 2**20, 1),
            "ratio": round(peaks["llmcore"] / peaks["plain"], 3),
            "unit": "MiB",
            "target": MEMORY_TARGET,
        },
        {
            "name": f"loss time, {shape}",
            "figure": round(seconds["llmcore"] * 1e3, 2),
            "peer": round(seconds["plain"] * 1e3, 2),
            "ratio": round(seconds["llmcore"] / seconds["plain"], 3),
            "unit": "ms",
            "target": TIME_TARGET,
        },
    ]
    finish("loss_memory", rows, rounds=options.rounds, quick=options.quick, gradients_differ_by=worst)


if __name__ == "__main__":
    main()
