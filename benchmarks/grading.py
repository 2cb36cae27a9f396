"""Submissions a minute of `llmcourse grade` and of `nbgrader autograde` on the same notebooks, and how long one learner waits.

    python benchmarks/grading.py [--quick] [--count 100] [--nbgrader 10] [--chapter 02_attention_scaling] [--workers 2]

The class is made from the chapter's own right and wrong answers (`_classroom`); all submissions are distinct and nothing is cached.
Both are timed as commands, start-up included. nbgrader takes seconds each, so by default ten of them are timed: once one submission and
once all ten, and the difference is what the others cost. Left out on purpose: collecting, and nbgrader's generate_feedback (ours
writes its feedback pages within the time).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _classroom import hand_in_class, make_course
from _report import ROOT, finish

from grader import bridge
from grader.grading import Warm, grade_assignment

TARGET_RATIO = 30.0
TARGET_LATENCY_S = 1.0


def _environment(root: Path) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LLM_COURSE_NO_PROGRESS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": str(ROOT), "LLM_COURSE_ROOT": str(root)}


def _seconds(command: list[str], root: Path) -> float:
    """Wall-clock seconds of a command in the course folder. Raises: RuntimeError with its last words when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=_environment(root), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:4])} ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"
        )
    return time.perf_counter() - start


def ours(root: Path, slug: str, workers: int) -> float:
    """Seconds of the whole command, cache off."""
    command = [sys.executable, "-m", "grader.cli", "grade", slug, "--fresh", "--workers", str(workers)]
    return _seconds([*command, "--course", str(root)], root)


def nbgrader(root: Path, slug: str, students: list[str]) -> tuple[float, float]:
    """(seconds of the first submission with start-up, seconds of each further one) of `nbgrader autograde`."""
    command = [sys.executable, "-m", "nbgrader", "autograde", slug, "--course", "llm_principles"]
    first = _seconds([*command, f"--student={students[0]}"], root)
    rest = _seconds([*command, "--force"], root)
    return first, max(rest - first, 0.0) / max(len(students) - 1, 1)


def latency(root: Path, slug: str, students: list[str]) -> list[float]:
    """Seconds from asking to the written feedback page and gradebook row, for one submission after the other, sandbox warm."""
    seconds = []
    with Warm(root, slug) as warm:
        grade_assignment(root, slug, students=students[:1], warm=warm, fresh=True)
        for student in students[1:]:
            start = time.perf_counter()
            grade_assignment(root, slug, students=[student], warm=warm, fresh=True)
            assert (root / "feedback" / student / slug / f"{slug}.html").is_file()
            seconds.append(time.perf_counter() - start)
    return seconds


def _scores(root: Path, slug: str) -> dict[str, float]:
    return {r.student: sum(p for c, p in r.cells.items() if c.startswith("judge_")) for r in bridge.rows(root, slug)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few submissions, nbgrader on two, for CI")
    parser.add_argument("--count", type=int, help="submissions (default 100, quick 8)")
    parser.add_argument(
        "--nbgrader", type=int, help="on how many of them nbgrader is timed (default 10, quick 2, 0: not at all)"
    )
    parser.add_argument("--chapter", default="02_attention_scaling")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count = options.count or (8 if options.quick else 100)
    peers = (2 if options.quick else 10) if options.nbgrader is None else options.nbgrader
    peers = min(peers, count)
    slug = options.chapter
    with tempfile.TemporaryDirectory() as folder:
        root = make_course(Path(folder) / "ours", slug)
        students = hand_in_class(root, slug, count, options.seed)
        peer_root = Path(folder) / "peer" / "course"
        shutil.copytree(root, peer_root)
        shutil.copyfile(ROOT / "course" / "nbgrader_config.py", peer_root / "nbgrader_config.py")
        for student in students[peers:]:
            shutil.rmtree(peer_root / "submitted" / student)
        seconds = ours(root, slug, options.workers)
        first, each = nbgrader(peer_root, slug, students[:peers]) if peers else (None, None)
        whole = first + each * (count - 1) if peers else None
        same = [_scores(root, slug).get(s) == score for s, score in _scores(peer_root, slug).items()] if peers else []
        waits = latency(root, slug, students[: min(count, 5 if options.quick else 21)])
    rows = [
        {
            "name": f"{count} submissions of one chapter, {options.workers} workers, submissions a minute",
            "figure": round(60 * count / seconds, 2),
            "peer": round(60 * count / whole, 2) if whole else None,
            "ratio": round(whole / seconds, 2) if whole else None,
            "unit": "submissions/min",
            "target": f">= {TARGET_RATIO:g} times nbgrader" if not options.quick else "",
            "seconds": round(seconds, 2),
            "peer_seconds": round(whole, 1) if whole else None,
            "peer_first_s": round(first, 2) if peers else None,
            "peer_each_s": round(each, 2) if peers else None,
            "peer_timed_on": peers,
            "same_score": f"{sum(same)} of {len(same)}",
        },
        {
            "name": "one warm submission, from asking to the feedback page, median",
            "figure": round(statistics.median(waits), 3),
            "peer": None,
            "ratio": None,
            "unit": "s",
            "target": f"< {TARGET_LATENCY_S:g}",
            "worst_s": round(max(waits), 3),
        },
    ]
    finish("grading", rows, chapter=slug, count=count, workers=options.workers, quick=options.quick)


if __name__ == "__main__":
    main()
