"""What a run says about its exercises: who solved them, which mistakes were made, and which cases tell learners apart.

    llmcourse statistics 03_norms --figure norms.svg

Numbers come from the stored results alone. A case that everybody passes checks nothing in this class, one that nobody passes is worth a
look at its wording, and an exercise that the strongest fail as often as the weakest (a discrimination near 0) deserves the same.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader import course, exchange
from grader.exercise import Outcome
from grader.grading import read_result

UNTRIED = (Outcome.NOT_ATTEMPTED, Outcome.MISSING, Outcome.INVALID)
"""Endings that say nothing about the exercise."""
ENOUGH = 3
"""Answers from which a case is called one that everybody or nobody passes."""
# Okabe-Ito, told apart by colour-blind readers; hatches say the same in print.
COLOURS = {
    "right": ("#009E73", ""),
    "wrong": ("#D55E00", "//"),
    "ended": ("#E69F00", ".."),
    "not tried": ("#999999", ""),
}


@dataclass
class ExerciseStatistics:
    """One exercise over all graded submissions."""

    name: str
    max_points: float
    submissions: int = 0
    tried: int = 0
    right: int = 0
    ended: int = 0
    """Stopped instead of answered: time, memory, output, a crash, policy, the grader itself."""
    points: float = 0.0
    mistakes: Counter = field(default_factory=Counter)
    """How many were told each diagnosis, misconceptions of the exercise and general readings."""
    cases: dict[str, tuple[int, int]] = field(default_factory=dict)
    """(passed, asked) by case label, over those who tried."""
    discrimination: float | None = None
    """Correlation of being right here with the points on the other exercises; None when it cannot be told."""

    @property
    def share_right(self) -> float | None:
        """Of those who tried it."""
        return self.right / self.tried if self.tried else None

    @property
    def mean_points(self) -> float:
        """Over all submissions, tried or not."""
        return self.points / self.submissions if self.submissions else 0.0

    def cases_that(self, everybody: bool) -> list[str]:
        """Labels of cases that all (or none) of those asked passed, when at least `ENOUGH` were asked."""
        wanted = [label for label, (ok, n) in self.cases.items() if n >= ENOUGH and ok == (n if everybody else 0)]
        return wanted if not everybody or self.tried > self.right else []


def collect(root: Path, slug: str, students: list[str] | None = None) -> list[ExerciseStatistics]:
    """Statistics of each exercise of an assignment, in the chapter's order.

    Raises: ValueError for an unknown assignment, or when nothing of it was graded.
    """
    chapter = course.load(slug, root)
    results = [r for s in students or exchange.submitted(root, slug) if (r := read_result(root, slug, s))]
    if not results:
        raise ValueError(f"nothing of {slug} was graded yet; run `llmcourse grade {slug}` first")
    return summarise(results, {name: chapter.points[name] for name in chapter.exercises})


def summarise(results: list[dict[str, Any]], points: dict[str, float]) -> list[ExerciseStatistics]:
    """Statistics from results as they are stored; `points` says what each exercise is worth."""
    made = {name: ExerciseStatistics(name, worth) for name, worth in points.items()}
    for result in results:
        for entry in result["exercises"]:
            if entry["exercise"] in made:
                _count(made[entry["exercise"]], entry)
    for name, item in made.items():
        item.discrimination = _discrimination(results, name)
    return list(made.values())


def _count(item: ExerciseStatistics, entry: dict[str, Any]) -> None:
    outcome = Outcome(entry["outcome"])
    item.submissions += 1
    item.points += entry["points"]
    if outcome in UNTRIED:
        return
    item.tried += 1
    item.right += outcome is Outcome.PASSED
    item.ended += outcome not in (Outcome.PASSED, Outcome.FAILED, Outcome.ERROR)
    if entry.get("diagnosis"):
        item.mistakes[entry["diagnosis"]] += 1
    whole: dict[str, bool] = {}
    for label, result in entry.get("cases", []):
        if result != "not asked":
            whole[label] = whole.get(label, True) and result == "passed"
    for label, ok in whole.items():
        passed, asked = item.cases.get(label, (0, 0))
        item.cases[label] = (passed + ok, asked + 1)


def _discrimination(results: list[dict[str, Any]], name: str) -> float | None:
    """Pearson correlation of passing `name` with the points on the rest."""
    pairs = []
    for result in results:
        here = next((e for e in result["exercises"] if e["exercise"] == name), None)
        if here is not None:
            rest = sum(e["points"] for e in result["exercises"] if e["exercise"] != name)
            pairs.append((float(here["outcome"] == Outcome.PASSED), float(rest)))
    if len(pairs) < ENOUGH:
        return None
    mean_x, mean_y = (sum(values) / len(pairs) for values in zip(*pairs))
    cross = sum((x - mean_x) * (y - mean_y) for x, y in pairs)
    spread = math.sqrt(sum((x - mean_x) ** 2 for x, _ in pairs) * sum((y - mean_y) ** 2 for _, y in pairs))
    return cross / spread if spread > 0 else None


def figure(items: list[ExerciseStatistics], title: str, path: Path) -> Path:
    """Draws one bar an exercise: right, wrong, ended, not tried; the most common mistake stands beside it.

    The format follows the file's ending (svg, png, pdf). Raises: ValueError for another ending.
    """
    if path.suffix.lower() not in (".svg", ".png", ".pdf"):
        raise ValueError(f"a figure is written as .svg, .png or .pdf, got {path.name}")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 1.2 + 0.55 * len(items)), layout="constrained")
    axes = drawn.subplots()
    for row, item in enumerate(items):
        wrong = item.tried - item.right - item.ended
        counts = (item.right, wrong, item.ended, item.submissions - item.tried)
        left = 0
        for (name, (colour, hatch)), count in zip(COLOURS.items(), counts):
            label = name if row == 0 else None
            axes.barh(row, count, left=left, color=colour, hatch=hatch, edgecolor="white", label=label, height=0.7)
            if count:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                axes.text(left + count / 2, row, str(count), ha="center", va="center", fontsize=9, bbox=box)
            left += count
        if item.mistakes:
            name, count = item.mistakes.most_common(1)[0]
            axes.text(left, row, f"  {name} ({count})", va="center", fontsize=8)
    axes.set_yticks(range(len(items)), [item.name for item in items])
    axes.invert_yaxis()
    most = max((item.submissions for item in items), default=0)
    axes.set_xlim(0, most * 1.45 or 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("submissions")
    axes.set_title(title, loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    with rc_context({"svg.hashsalt": title}):  # the same numbers give the same file
        drawn.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    return path
