"""What the benchmarks share: medians of interleaved runs, the machine, and the row that is printed and kept."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def medians(runs: Mapping[str, Callable[[], Any]], rounds: int, each: int = 1, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of one call of each, `each` calls timed together; all take turns, so that a busy machine slows all alike."""
    for run in runs.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(each):
                run()
            seconds[name].append((time.perf_counter() - start) / each)
    return {name: statistics.median(times) for name, times in seconds.items()}


class Side:
    """One side of a comparison in a process of its own: `command` answers every line on its input with the seconds that it measured."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self) -> float:
        """Seconds of one call. Raises: RuntimeError when the process has ended."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{' '.join(self.process.args)} ended with status {self.process.wait()}; see its message above"
            )
        return float(line)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def answer(run: Callable[[], Any], each: int) -> None:
    """The other end of a `Side`: time `each` calls of `run` for every line on standard input, print the seconds of one."""
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(each):
            run()
        print((time.perf_counter() - start) / each, flush=True)


def medians_of_processes(commands: Mapping[str, list[str]], rounds: int, warm_up: int = 2) -> dict[str, float]:
    """As `medians`, each side in a process of its own, still by turns: neither shares the other's memory or settings."""
    sides = {name: Side(command) for name, command in commands.items()}
    try:
        for _ in range(warm_up):
            for side in sides.values():
                side.measure()
        taken: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                taken[name].append(side.measure())
    finally:
        for side in sides.values():
            side.close()
    return {name: statistics.median(times) for name, times in taken.items()}


def machine() -> dict[str, Any]:
    """What figures depend on: processor, cores, threads, accelerator, versions, commit."""
    import torch

    commit = subprocess.run(
        ["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "commit": commit.stdout.strip() or None,
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def finish(file_name: str, rows: list[dict[str, Any]], **shared: Any) -> None:
    """Print each row for people, append it to results/FILE_NAME.jsonl, and print all as one JSON line, last.

    A row has name, figure, peer, ratio and unit (peer and ratio None where there is no peer), and what else it likes.
    """
    where = machine()
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for row in rows:
        against = f"   peer {row['peer']:.4g}   ratio {row['ratio']:.2f}" if row.get("peer") else ""
        target = f"   (target {row['target']})" if "target" in row else ""
        print(f"{row['name']}: {row['figure']:.4g} {row['unit']}{against}{target}")
    print(", ".join(f"{name} {value}" for name, value in where.items() if value is not None))
    full = [{**row, **shared, "time": when, **where} for row in rows]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{file_name}.jsonl").open("a", encoding="utf-8") as file:
        for row in full:
            file.write(json.dumps(row) + "\n")
    print(json.dumps(full))
