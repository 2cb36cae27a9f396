"""Measures candidate tile sizes of the Triton attention kernels on this GPU and rewrites llmcore/attention/kernel_table.py with the fastest.

For each kernel, head width, mask and length class: every candidate is first compiled in worker processes, then held against the present table's result
(a candidate that differs by more than rounding is dropped and named), then timed in turns; medians. Rows that were not measured stay.

    python benchmarks/tune_flash_attention.py [--quick] [--widths 64,128] [--kernels forward,dkv,dkv_grouped,dq,decode] [--jobs 8] [--write]

About 5 minutes on an H200 for widths 64 and 128. Without --write it only prints. Afterwards run benchmarks/cross_compile.py --write, and the GPU tests.
Without a CUDA device it says so and ends well.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _report import finish

from llmcore.attention import kernel_table
from llmcore.attention.kernel_configs import (
    KERNELS,
    LONG_TOKENS,
    Key,
    Tiles,
    block_width,
    look_up,
    table_key,
    use_tiles,
)

COMMAND = "python benchmarks/tune_flash_attention.py --write"
LENGTHS = {"short": 1024, "long": 8192}
TOKENS, COLUMNS = 16384, 2048
# (block_q, block_k, warps, stages) worth a try at a block width up to 64, of 128, of 256.
CANDIDATES: dict[str, dict[int, list[tuple[int, int, int, int]]]] = {
    "forward": {
        64: [(128, 64, 4, 3), (128, 64, 4, 4), (128, 128, 8, 2), (128, 128, 8, 3), (128, 64, 8, 3), (64, 64, 4, 3), (128, 128, 4, 2)],
        128: [(128, 64, 8, 3), (128, 128, 8, 2), (128, 64, 8, 2), (128, 64, 4, 2), (64, 64, 4, 3), (128, 32, 4, 3)],
        256: [(128, 64, 8, 2), (64, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2)],
    },
    "dkv": {
        64: [(64, 128, 8, 2), (64, 128, 8, 3), (64, 64, 4, 2), (64, 64, 4, 3), (128, 128, 8, 2), (32, 128, 8, 3), (64, 128, 4, 2)],
        128: [(64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 8, 3), (64, 64, 4, 2), (64, 128, 8, 1)],
        256: [(32, 64, 8, 2), (16, 64, 8, 2), (32, 64, 8, 1)],
    },
    "dq": {
        64: [(128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 32, 4, 3), (128, 64, 8, 2)],
        128: [(128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2), (128, 64, 8, 1), (128, 32, 4, 2)],
        256: [(64, 32, 8, 2), (128, 32, 8, 2), (64, 64, 8, 1)],
    },
    "decode": {
        64: [(16, 128, 4, 3), (16, 64, 4, 3), (16, 128, 4, 2), (16, 256, 4, 2), (16, 64, 2, 4)],
        128: [(16, 64, 4, 3), (16, 128, 4, 2), (16, 64, 4, 4), (16, 64, 2, 3), (16, 32, 4, 4)],
        256: [(16, 64, 4, 2), (16, 32, 4, 3), (16, 64, 8, 2)],
    },
}  # fmt: skip
CANDIDATES["dkv_grouped"] = CANDIDATES["dkv"]


@dataclass(frozen=True)
class Task:
    """One row of the table to be measured."""

    kernel: str
    width: int
    causal: bool
    length: str

    @property
    def key(self) -> Key:
        return table_key(self.kernel, self.width, self.causal, LENGTHS[self.length], 2, tma=self.kernel != "decode")

    @property
    def tma(self) -> bool:
        return self.key[-1] == "tma"

    def candidates(self) -> list[Tiles]:
        """The present row first."""
        present = look_up(self.key)
        listed = CANDIDATES[self.kernel][max(64, block_width(self.width))]
        return [present, *(tiles for tiles in (Tiles(*values, tma=self.tma) for values in listed) if tiles != present)]


def make_run(task: Task) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A call of the forward or the backward in which the task's kernel runs."""
    from llmcore.attention import _launch

    tokens, heads = LENGTHS[task.length], COLUMNS // task.width
    kv_heads = max(1, heads // 4) if task.kernel in ("dkv_grouped", "decode") else heads
    batch, queries = max(1, TOKENS // tokens), 1 if task.kernel == "decode" else tokens
    generator = torch.Generator("cuda").manual_seed(0)
    q, k, v, d_out = (
        torch.randn(batch, count, length, task.width, device="cuda", dtype=torch.bfloat16, generator=generator)
        for count, length in ((heads, queries), (kv_heads, tokens), (kv_heads, tokens), (heads, queries))
    )
    plan = _launch.Plan(task.causal, task.width**-0.5)
    if task.kernel in ("forward", "decode"):
        return lambda: _launch.forward(q, k, v, plan)
    out, lse = _launch.forward(q, k, v, plan)
    d_lse = torch.zeros_like(lse)
    return lambda: _launch.backward(d_out, d_lse, q, k, v, out, lse, plan)


def warm(task: Task, tiles: Tiles) -> str | None:
    """Compile one candidate, so that Triton's cache on disk holds it; the error's name where it cannot be."""
    try:
        with use_tiles(**{task.kernel: tiles}):
            make_run(task)()
        torch.cuda.synchronize()
    except Exception as error:  # too large for the device, or the compiler gave up: the candidate is out
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return None


def measure(task: Task, candidates: list[Tiles], rounds: int) -> list[tuple[float, Tiles]]:
    """(milliseconds, tiles) of the candidates whose results agree with the present row's, fastest first."""
    from triton.testing import do_bench

    run = make_run(task)
    with use_tiles(**{task.kernel: candidates[0]}):
        want = [x.float() for x in run()]
    sound = []
    for tiles in candidates:
        with use_tiles(**{task.kernel: tiles}):
            got = [x.float() for x in run()]
        off = max(((have - wants).norm() / wants.norm()).item() for have, wants in zip(got, want))
        if off < 5e-3:
            sound.append(tiles)
        else:
            print(f"{task}: {tiles} gives other results, off by {off:.1e}: dropped")
    times: dict[Tiles, list[float]] = {tiles: [] for tiles in sound}
    for _ in range(rounds):
        for tiles in sound:
            with use_tiles(**{task.kernel: tiles}):
                times[tiles].append(do_bench(run, warmup=10, rep=40, return_mode="median"))
    return sorted(((statistics.median(all_), tiles) for tiles, all_ in times.items()), key=lambda pair: pair[0])


def tasks(kernels: list[str], widths: list[int], lengths: list[str]) -> Iterator[Task]:
    for kernel in kernels:
        for width in widths:
            for causal in (False,) if kernel == "decode" else (True, False):
                for length in lengths:
                    yield Task(kernel, width, causal, length)


def table_text(rows: dict[Key, tuple[int, int, int, int]]) -> str:
    """The source of kernel_table.py: its present docstring and the rows in order."""
    lines = [
        f'"""{kernel_table.__doc__}"""',
        "",
        "TABLE: dict[tuple[str, int, str, str, str, str], tuple[int, int, int, int]] = {",
    ]
    for key, values in sorted(
        rows.items(), key=lambda row: (row[0][5], row[0][4], KERNELS.index(row[0][0]), row[0][1:4])
    ):
        lines.append(f"    ({', '.join(json.dumps(part) for part in key)}): ({', '.join(map(str, values))}),")
    return "\n".join([*lines, "}", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="width 64, short texts")
    parser.add_argument("--widths", default="64,128", help="head widths, with commas between")
    parser.add_argument("--kernels", default=",".join(KERNELS), help="with commas between")
    parser.add_argument("--jobs", type=int, default=8, help="processes that compile")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each candidate")
    parser.add_argument("--write", action="store_true", help="rewrite kernel_table.py")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no CUDA device here: on a machine with one, run {COMMAND}")
        return
    widths = [64] if options.quick else [int(width) for width in options.widths.split(",")]
    todo = list(tasks(options.kernels.split(","), widths, ["short"] if options.quick else list(LENGTHS)))
    attempts = [(task, tiles) for task in todo for tiles in task.candidates()]
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        problems = dict(zip(attempts, pool.map(warm, *zip(*attempts))))
    rows, report = dict(kernel_table.TABLE), []
    for task in todo:
        candidates = [tiles for tiles in task.candidates() if problems[task, tiles] is None]
        for tiles in task.candidates():
            if problems[task, tiles] is not None:
                print(f"{task}: {tiles} cannot be used: {problems[task, tiles]}")
        if not candidates:
            continue
        found = measure(task, candidates, options.rounds)
        best_ms, best = found[0]
        present_ms = next((time for time, tiles in found if tiles == look_up(task.key)), None)
        rows[task.key] = (best.block_q, best.block_k, best.warps, best.stages)
        if task.kernel == "decode":  # one query has no order to keep
            rows[*task.key[:2], "any", *task.key[3:]] = rows.pop(task.key)
        report.append({
            "name": " ".join(map(str, task.key)), "figure": round(best_ms, 4), "peer": present_ms and round(present_ms, 4),
            "ratio": present_ms and round(best_ms / present_ms, 3), "unit": "ms", "best": list(rows.get(task.key, ())) or str(best),
            "all": {f"{tiles.block_q}x{tiles.block_k}w{tiles.warps}s{tiles.stages}": round(time, 4) for time, tiles in found},
        })  # fmt: skip
        print(
            f"{report[-1]['name']}: " + ", ".join(f"{name} {time}" for name, time in report[-1]["all"].items()),
            flush=True,
        )
    if options.write:
        Path(kernel_table.__file__).write_text(table_text(rows), encoding="utf-8")
        print(f"wrote {Path(kernel_table.__file__).name}; next: benchmarks/cross_compile.py --write, and the GPU tests")
    finish("tune_flash_attention", report, long_from=LONG_TOKENS)


if __name__ == "__main__":
    main()
