"""A class graded while the grader is killed again and again, held against the same class graded undisturbed.

    python benchmarks/grading_resume.py [--quick] [--count 1000] [--kills 10] [--chapter small]

`kill -9` hits the supervisor or one of its judging processes, at random moments; then the same command is given again. Compared are every
result file, feedback page and autograded notebook byte by byte, the gradebook table by table, and the ledger record by record.
"small" is the two-exercise chapter of the grader's own tests; any chapter of the course can be named. Ends with exit code 1 when
anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _classroom import hand_in_class, make_course
from _report import ROOT, finish

from grader import ledger
from grader.grading import run_secret


def prepare(folder: Path, chapter: str, count: int, seed: int) -> tuple[Path, Path, str]:
    """Two equal courses with a class handed in, and the assignment's name."""
    source, slug = None, chapter
    if chapter == "small":
        slug = "01_sums"
        source = folder / "small"
        shutil.copytree(ROOT / "tests/grader/small_course", source, ignore=shutil.ignore_patterns("__pycache__"))
        from tools.build import save
        from tools.build import source as build
        from tools.chapter import Course

        made = Course(folder)
        (folder / "course").symlink_to(source)
        save(build(made, slug, ["mean_square", "root_mean_square"]), source / "source" / slug / f"{slug}.ipynb")
    quiet = make_course(folder / "quiet", slug, source)
    hand_in_class(quiet, slug, count, seed)
    run_secret(quiet)
    disturbed = folder / "disturbed" / "course"
    shutil.copytree(quiet, disturbed)
    return quiet, disturbed, slug


def start(root: Path, slug: str, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "grader.cli", "grade", slug, "--workers", str(workers), "--course", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LLM_COURSE_NO_PROGRESS": "1"}
    return subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def grade(root: Path, slug: str, workers: int) -> None:
    """One run to its end. Raises: RuntimeError with what it said when it fails."""
    process = start(root, slug, workers)
    _, said = process.communicate()
    if process.returncode:
        raise RuntimeError(f"llmcourse grade ended with {process.returncode}: {said.decode()[-2000:]}")


def grade_disturbed(root: Path, slug: str, workers: int, count: int, kills: int, draw: random.Random) -> dict[str, int]:
    """Runs until all is graded, killing a process at each of `kills` random numbers of results. Says what was hit."""
    hit = {"supervisor": 0, "judging process": 0}
    results = root / "results" / slug
    process = start(root, slug, workers)
    for target in sorted(draw.randrange(count) for _ in range(kills)):
        while process.poll() is None and len(list(results.glob("*.json"))) < target:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.3))
        if process.poll() is not None:
            process = start(root, slug, workers)
            time.sleep(draw.uniform(0.0, 3.0))
        below = _children(process.pid)
        if below and draw.random() < 0.3:
            os.kill(draw.choice(below), signal.SIGKILL)
            hit["judging process"] += 1
        else:
            process.kill()
            process.wait()
            hit["supervisor"] += 1
            process = start(root, slug, workers)
    process.communicate()
    grade(root, slug, workers)
    return hit


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def differences(quiet: Path, disturbed: Path, slug: str) -> list[str]:
    """What is not equal, one sentence each."""
    found = []
    for name in (f"results/{slug}", "feedback", "autograded"):
        one, other = (_files(root / name) for root in (quiet, disturbed))
        found += [f"{name}/{path} is in one only" for path in sorted(one.keys() ^ other.keys())]
        found += [f"{name}/{path} differs" for path in sorted(one.keys() & other.keys()) if one[path] != other[path]]
    one, other = (_tables(root / "gradebook.db") for root in (quiet, disturbed))
    found += [f"the gradebook's table {name} differs" for name in sorted(one) if one[name] != other.get(name)]
    one, other = (_records(root / "results/ledger.jsonl") for root in (quiet, disturbed))
    if len(one) != len(other):
        found.append(f"the ledger has {len(other)} records, want {len(one)}")
    if sorted(one) != sorted(other):
        found.append("the ledgers say different things")
    return found


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _tables(path: Path) -> dict[str, list[str]]:
    """Every table's rows without the random ids, sorted."""
    rows: dict[str, list[str]] = {}
    with contextlib.closing(sqlite3.connect(path)) as book:
        for (table,) in book.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            cursor = book.execute(f'SELECT * FROM "{table}"')
            kept = [
                n for n, column in enumerate(cursor.description) if not (column[0] == "id" or column[0].endswith("_id"))
            ]
            if table == "student":
                kept = range(len(cursor.description))
            rows[table] = sorted(json.dumps([row[n] for n in kept], default=str) for row in cursor)
    return rows


def _records(path: Path) -> list[str]:
    """What the ledger says, without what differs from run to run. Raises: AssertionError when its chain is broken."""
    found, records = ledger.read(path)
    assert found.ok, found.bad
    for record in records:
        for name in ledger.OWN_NAMES:
            record.pop(name)
        for entry in record["exercises"]:
            entry.pop("cost", None)
    return [json.dumps(record, sort_keys=True) for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 submissions and 3 kills, for CI")
    parser.add_argument("--count", type=int)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--chapter", default="small")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count, kills = options.count or (30 if options.quick else 1000), options.kills or (3 if options.quick else 10)
    with tempfile.TemporaryDirectory() as folder:
        quiet, disturbed, slug = prepare(Path(folder), options.chapter, count, options.seed)
        begin = time.perf_counter()
        grade(quiet, slug, options.workers)
        middle = time.perf_counter()
        hit = grade_disturbed(disturbed, slug, options.workers, count, kills, random.Random(options.seed))
        end = time.perf_counter()
        found = differences(quiet, disturbed, slug)
    for line in found[:20]:
        print(line)
    row = {
        "name": f"{count} submissions, {kills} kill -9, what differs from an undisturbed run",
        "figure": len(found),
        "peer": None,
        "ratio": None,
        "unit": "differences",
        "target": 0,
        "seconds_undisturbed": round(middle - begin, 1),
        "seconds_disturbed": round(end - middle, 1),
        "killed": hit,
    }
    finish("grading_resume", [row], chapter=slug, count=count, workers=options.workers, quick=options.quick)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
