"""What the benchmarks share: medians of interleaved runs, the machine, and the row that is printed and kept."""

import json
import os
import platform
import statistics
import subprocess
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
