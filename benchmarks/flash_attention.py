"""The Triton flash attention against torch's flash, cuDNN and math backends, each forced, and FlexAttention: TFLOP/s, error, memory, decoding.

bfloat16, N(0, 1), 16,384 tokens and 2,048 columns of heads in all (the FlashAttention papers' grid: batch shrinks as length grows, 32 heads of 64 or
16 of 128), causal and not, forward and backward, then grouped heads (Llama 8B), a GPT-2 layer, packed documents, decoding, and peak memory. FLOPs are
4 B H T S D forward, half of that when causal, and 2.5 times as many backward. Kernels take turns; medians. Every row is checked
against float64 on one key head, out and gradients, before it is timed, and its error is printed beside flash's. Shares are of a matrix product of this run.

    python benchmarks/flash_attention.py [--quick] [--rounds 3] [--no-flex] [--lengths 512,1024,2048,4096,8192,16384]

About 8 minutes on an H200; writes results/flash_attention.jsonl and flash_attention.svg. Without a CUDA device it says so and ends well.
"""

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from _report import RESULTS, finish
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from llmcore.attention import flash_attention, reference

COMMAND = "python benchmarks/flash_attention.py"
TOKENS, COLUMNS = 16384, 2048
MATH_PAIRS = 2**32  # the math backend holds B H T S scores in several copies
ERROR_BOUND = 1e-2
TARGETS = {("forward", 64): 1.2, ("forward", 128): 1.15, ("backward", 64): 1.0, ("backward", 128): 1.0}
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH}


@dataclass(frozen=True)
class Shape:
    """One row's request."""

    batch: int
    heads: int
    kv_heads: int
    tokens: int
    width: int
    causal: bool
    label: str = ""

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        return f"{self.label or 'grid'} B{self.batch} H{heads} T{self.tokens} D{self.width} {'causal' if self.causal else 'full'}"

    @property
    def flops(self) -> float:
        """Of the forward."""
        return 4 * self.batch * self.heads * self.tokens**2 * self.width * (0.5 if self.causal else 1)


def grid(lengths: list[int], widths: list[int], masks: list[bool]) -> Iterator[Shape]:
    for width in widths:
        for causal in masks:
            for tokens in lengths:
                heads = COLUMNS // width
                yield Shape(max(1, TOKENS // tokens), heads, heads, tokens, width, causal)


EXTRA = [
    Shape(64, 12, 12, 1024, 64, True, "GPT-2 layer"),
    Shape(1, 32, 8, 8192, 128, True, "Llama 8B layer"),
    Shape(4, 32, 4, 4096, 64, True, "grouped by 8"),
    Shape(8, 8, 4, 2048, 256, True, "Gemma layer"),
]


def make_inputs(shape: Shape, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Leaves q, k, v and the gradient of the output."""
    generator = torch.Generator("cuda").manual_seed(seed)
    sizes = [shape.heads, shape.kv_heads, shape.kv_heads, shape.heads]
    made = [
        torch.randn(
            shape.batch, heads, shape.tokens, shape.width, device="cuda", dtype=torch.bfloat16, generator=generator
        )
        for heads in sizes
    ]
    return *(x.requires_grad_() for x in made[:3]), made[3]


def contenders(shape: Shape, flex: bool) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The forwards that this device and build can run for a shape."""
    grouped = shape.heads != shape.kv_heads

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return flash_attention(q, k, v, causal=shape.causal, backend="triton")

    def forced(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=shape.causal, enable_gqa=grouped)

        return run

    found = {"llmcore": ours}
    for name, backend in BACKENDS.items():
        if name == "math" and shape.batch * shape.heads * shape.tokens**2 > MATH_PAIRS:
            continue
        found[name] = forced(backend)
    if flex:
        found["flex"] = _flex(shape, grouped)
    return found


def _flex(shape: Shape, grouped: bool) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    block_mask = None
    if shape.causal:
        block_mask = create_block_mask(
            lambda b, h, query, key: query >= key, None, None, shape.tokens, shape.tokens, device="cuda"
        )
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask, enable_gqa=grouped)


def errors(shape: Shape, run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Relative distances of out, dq, dk and dv from float64, on the first key head of the first row."""
    q, k, v, d_out = make_inputs(shape)
    out = run(q, k, v)
    gradients = torch.autograd.grad(out, (q, k, v), d_out)
    group = shape.heads // shape.kv_heads
    # One query head of the group at a time keeps the T x T scores in float64 small; its key gradients add up.
    wanted: list[list[Tensor]] = []
    for head in range(group):
        part = [x.detach()[:1, at : at + 1].double().requires_grad_() for x, at in ((q, head), (k, 0), (v, 0))]
        want = reference.attention(*part, causal=shape.causal)
        wanted.append([want.detach(), *torch.autograd.grad(want, part, d_out[:1, head : head + 1].double())])
    want_out, want_dq = (torch.cat([one[at] for one in wanted], 1) for at in (0, 1))
    want_dk, want_dv = (sum(one[at] for one in wanted) for at in (2, 3))
    got = (out[:1, :group], gradients[0][:1, :group], gradients[1][:1, :1], gradients[2][:1, :1])
    pairs = zip(("out", "dq", "dk", "dv"), got, (want_out, want_dq, want_dk, want_dv))
    return {name: ((have.double() - want).norm() / want.norm()).item() for name, have, want in pairs}


def milliseconds(runs: dict[str, Callable[[], Any]], rounds: int, rep: int) -> dict[str, tuple[float, float]]:
    """(median, spread as a share of it) of each; they take turns, and the second-level cache is cleared before every call."""
    from triton.testing import do_bench

    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(do_bench(run, warmup=20, rep=rep, return_mode="median"))
    return {name: (statistics.median(all_), (max(all_) - min(all_)) / min(all_)) for name, all_ in times.items()}


def measure(shape: Shape, rounds: int, rep: int, flex: bool, matmul: float) -> list[dict[str, Any]]:
    """The forward and the backward row of a shape."""
    q, k, v, d_out = make_inputs(shape)
    forwards, backwards, off = {}, {}, {}
    for name, run in contenders(shape, flex).items():
        try:
            off[name] = errors(shape, run)
            out = run(q, k, v)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print(f"{shape}: {name} cannot: {str(error).splitlines()[0][:150]}")
            torch.cuda.empty_cache()
            continue
        forwards[name] = lambda run=run: run(q.detach(), k.detach(), v.detach())
        backwards[name] = lambda out=out: torch.autograd.grad(out, (q, k, v), d_out, retain_graph=True)
    worst = max(off["llmcore"].values())
    if not worst < ERROR_BOUND or ("flash" in off and worst > 2 * max(off["flash"].values()) + 1e-3):
        raise SystemExit(
            f"{shape}: llmcore is off by {off['llmcore']}, flash by {off.get('flash')}: such a kernel is not timed"
        )
    rows = []
    for direction, runs, factor in (("forward", forwards, 1.0), ("backward", backwards, 2.5)):
        found = milliseconds(runs, rounds, rep)
        rates = {name: shape.flops * factor / time / 1e9 for name, (time, _) in found.items()}
        row = {
            "name": f"{direction} {shape}",
            "figure": round(rates["llmcore"], 1),
            "peer": round(rates["flash"], 1) if "flash" in rates else None,
            "ratio": round(rates["llmcore"] / rates["flash"], 3) if "flash" in rates else None,
            "unit": "TFLOP/s",
            "tflops": {name: round(rate, 1) for name, rate in rates.items()},
            "ratio_cudnn": round(rates["llmcore"] / rates["cudnn"], 3) if "cudnn" in rates else None,
            "share_of_matmul": round(rates["llmcore"] / matmul, 3),
            "ms": {name: round(time, 4) for name, (time, _) in found.items()},
            "spread": {name: round(spread, 3) for name, (_, spread) in found.items()},
            "error": {name: {what: float(f"{size:.2e}") for what, size in sizes.items()} for name, sizes in off.items()},
            "direction": direction, "tokens": shape.tokens, "width": shape.width, "causal": shape.causal, "label": shape.label,
        }  # fmt: skip
        if not shape.label and shape.causal and shape.tokens >= 1024 and (direction, shape.width) in TARGETS:
            row["target"] = TARGETS[direction, shape.width]
        rows.append(row)
        print(
            f"{row['name']}: "
            + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
            + f" TFLOP/s; {row['share_of_matmul']:.0%} of the matrix product; error {worst:.1e}",
            flush=True,
        )
    return rows


def packed_rows(rounds: int, rep: int) -> list[dict[str, Any]]:
    """Documents of uneven length in one row: ours skips what they cannot see, FLASH gets the same rows as one causal text."""
    lengths = [37, 900, 2048, 150, 4096, 700, 5000, 3453]
    borders = torch.tensor([0, *lengths], device="cuda").cumsum(0)
    shape = Shape(1, 16, 16, sum(lengths), 128, True)
    q, k, v, _ = (x.detach() for x in make_inputs(shape))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        found = milliseconds({
            "llmcore": lambda: flash_attention(q, k, v, causal=True, cu_seqlens=borders, backend="triton"),
            "flash, one text": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        }, rounds, rep)  # fmt: skip
    ours, peer = (found[name][0] for name in ("llmcore", "flash, one text"))
    return [{"name": f"forward {len(lengths)} packed documents, {shape.tokens} tokens, H16 D128", "figure": round(ours, 3),
             "peer": round(peer, 3), "ratio": round(ours / peer, 3), "unit": "ms"}]  # fmt: skip


def decoding_rows(rounds: int, rep: int, lengths: list[int]) -> list[dict[str, Any]]:
    """One query a row against a cache, Llama 8B's heads: GB/s of keys and values read."""
    rows = []
    for batch, tokens in [(batch, tokens) for batch in (1, 16) for tokens in lengths]:
        generator = torch.Generator("cuda").manual_seed(0)
        q, k, v = (
            torch.randn(batch, heads, n, 128, device="cuda", dtype=torch.bfloat16, generator=generator)
            for heads, n in ((32, 1), (8, tokens), (8, tokens))
        )
        found = milliseconds({
            "llmcore": lambda q=q, k=k, v=v: flash_attention(q, k, v, causal=True, backend="triton"),
            "torch": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        }, rounds, rep)  # fmt: skip
        rates = {name: 2 * k.numel() * k.element_size() / time / 1e6 for name, (time, _) in found.items()}
        rows.append({"name": f"decode B{batch} H32/8 S{tokens} D128", "figure": round(rates["llmcore"]), "peer": round(rates["torch"]),
                     "ratio": round(rates["llmcore"] / rates["torch"], 3), "unit": "GB/s"})  # fmt: skip
        print(
            f"{rows[-1]['name']}: llmcore {rates['llmcore']:.0f}, torch's default {rates['torch']:.0f} GB/s", flush=True
        )
    return rows


def memory_rows(lengths: list[int]) -> list[dict[str, Any]]:
    """Peak bytes of forward and backward beyond the inputs, one row of 16 heads of 64."""
    rows = []
    for tokens in lengths:
        shape = Shape(1, 16, 16, tokens, 64, True)
        peaks = {}
        for name, run in contenders(shape, flex=False).items():
            if name in ("llmcore", "math"):
                q, k, v, d_out = make_inputs(shape)
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                torch.autograd.grad(run(q, k, v), (q, k, v), d_out)
                peaks[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
        peer = peaks.get("math")
        rows.append({
            "name": f"memory T{tokens} H16 D64, forward and backward", "figure": round(peaks["llmcore"], 1), "peer": peer and round(peer, 1),
            "ratio": peer and round(peaks["llmcore"] / peer, 4), "unit": "MiB", "tokens": tokens, "mib": peaks,
        })  # fmt: skip
    return rows


def matmul_tflops() -> float:
    """An 8192-cubed bfloat16 product on random data, median."""
    from triton.testing import do_bench

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / do_bench(lambda: a @ b, warmup=100, rep=300, return_mode="median") / 1e9


def clocks() -> str:
    """SM and memory clock, read only."""
    command = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem,power.draw", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def draw(rows: list[dict[str, Any]], matmul: float) -> None:
    """TFLOP/s over length, a panel a width and mask, and memory over length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    timed = [row for row in rows if "tflops" in row and not row["label"]]
    panels = sorted({(row["direction"], row["width"], row["causal"]) for row in timed}, reverse=True)
    remembered = [row for row in rows if "mib" in row]
    columns = 4
    figure, axes = plt.subplots(math.ceil((len(panels) + 1) / columns), columns, figsize=(18, 9), squeeze=False)
    styles = {
        "llmcore": ("#0072B2", "o"),
        "flash": ("#E69F00", "s"),
        "cudnn": ("#009E73", "^"),
        "math": ("#999999", "v"),
        "flex": ("#CC79A7", "D"),
    }
    for axis, panel in zip(axes.flat, panels):
        mine = [row for row in timed if (row["direction"], row["width"], row["causal"]) == panel]
        for name, (color, marker) in styles.items():
            points = [(row["tokens"], row["tflops"][name]) for row in mine if name in row["tflops"]]
            if points:
                axis.plot(*zip(*points), color=color, marker=marker, label=name)
        axis.axhline(matmul, color="black", linestyle=":", linewidth=1)
        axis.set(
            xscale="log",
            title=f"{panel[0]}, D {panel[1]}, {'causal' if panel[2] else 'full'}",
            xlabel="tokens",
            ylabel="TFLOP/s",
            ylim=(0, None),
        )
        axis.set_xscale("log", base=2)
    last = axes.flat[len(panels)]
    for name in ("llmcore", "math"):
        points = [(row["tokens"], row["mib"][name]) for row in remembered if name in row["mib"]]
        if points:
            last.plot(*zip(*points), color=styles[name][0], marker=styles[name][1], label=name)
    last.set(yscale="log", title="peak memory, forward and backward", xlabel="tokens", ylabel="MiB")
    last.set_xscale("log", base=2)
    for axis in list(axes.flat)[len(panels) + 1 :]:
        axis.set_axis_off()
    axes.flat[0].legend()
    figure.suptitle(
        f"{torch.cuda.get_device_name()}, bfloat16, 16,384 tokens in all; dotted: an 8192-cubed matrix product, {matmul:.0f} TFLOP/s"
    )
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "flash_attention.svg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="causal, 1024 and 4096 tokens, one round, no FlexAttention"
    )
    parser.add_argument("--rounds", type=int, help="turns of each kernel (default 3, quick 1)")
    parser.add_argument(
        "--no-flex", action="store_true", help="leave FlexAttention out, whose compiling takes a minute or two"
    )
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192,16384", help="tokens, with commas between")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no CUDA device here: on a machine with one, run {COMMAND}")
        return
    import triton

    lengths = [1024, 4096] if options.quick else [int(length) for length in options.lengths.split(",")]
    rounds, rep = options.rounds or (1 if options.quick else 3), 60
    matmul = matmul_tflops()
    shared = {
        "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "clocks_before": clocks(),
        "matmul_tflops": round(matmul, 1),
    }
    print(", ".join(f"{name} {value}" for name, value in shared.items()), flush=True)
    rows: list[dict[str, Any]] = []
    for shape in [
        *grid(lengths, [64, 128], [True] if options.quick else [True, False]),
        *([] if options.quick else EXTRA),
    ]:
        # FlexAttention compiles anew for every shape: three lengths of the causal grid say enough.
        flex = (
            not (options.quick or options.no_flex)
            and shape.causal
            and not shape.label
            and shape.tokens in (1024, 4096, 16384)
        )
        rows += measure(shape, rounds, rep, flex, matmul)
        torch.cuda.empty_cache()
    rows += packed_rows(rounds, rep)
    rows += decoding_rows(rounds, rep, [4096] if options.quick else [1024, 8192, 65536])
    rows += memory_rows([1024, 4096] if options.quick else [1024, 2048, 4096, 8192, 16384])
    draw(rows, matmul)
    finish("flash_attention", rows, rounds=rounds, quick=options.quick, clocks_after=clocks(), **shared)


if __name__ == "__main__":
    main()
