"""A class of learners for benchmarks: distinct, realistic submissions of one chapter, made from its right and wrong answers.

    root = make_course(tmp_path, "02_attention_scaling"); hand_in_class(root, "02_attention_scaling", 100, seed=1)

A learner has a skill between 0.55 and 1: that share of the exercises is answered rightly (the worked solution or one of the right
variants), the rest wrongly (a known misconception), a few are left open. Every cell carries a remark of its owner, so no two
submissions are equal even where two learners wrote the same lines.
"""

import json
import random
import shutil
import sys
from pathlib import Path

from _report import ROOT

sys.path.insert(0, str(ROOT))

from grader import bridge, course
from grader.course import Chapter, Exercise

TIME = "2026-03-01 12:00:00.000000 UTC"
LEFT_OPEN = 0.15
"""Share of the answers that are not right which are simply left open."""


def make_course(folder: Path, slug: str, source: Path | None = None) -> Path:
    """A course folder of its own under `folder`, with the one chapter released by nbgrader."""
    source = source or ROOT / "course"
    root = folder / "course"
    for name in ("chapters", "source"):
        shutil.copytree(source / name / slug, root / name / slug, ignore=shutil.ignore_patterns("__pycache__"))
    bridge.generate_release(root, slug)
    return root


def answer(chapter: Chapter, exercise: Exercise, draw: random.Random, skill: float) -> str | None:
    """One learner's cell, or None where they left it open."""
    if draw.random() < skill:
        choices = [chapter.solutions[exercise.name], *(chapter.source_of(exercise, v) for v in exercise.variants)]
        return draw.choice(choices)
    if draw.random() < LEFT_OPEN or not exercise.misconceptions:
        return None
    return chapter.source_of(exercise, draw.choice(exercise.misconceptions))


def hand_in_class(root: Path, slug: str, count: int, seed: int = 1) -> list[str]:
    """Writes `count` collected submissions and returns the students' names."""
    chapter = course.load(slug, root)
    released = (root / "release" / slug / f"{slug}.ipynb").read_text(encoding="utf-8")
    draw = random.Random(seed)
    names = []
    for n in range(count):
        student, skill = f"s{n:04d}", draw.uniform(0.55, 1.0)
        answers = {e.name: answer(chapter, e, draw, skill) for e in chapter.exercises.values()}
        notebook = json.loads(released)
        for cell in notebook["cells"]:
            grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
            if source := answers.get(grade_id):
                cell["source"] = f"{source.rstrip()}\n# {student}, {draw.randrange(10**6)}\n"
        folder = root / "submitted" / student / slug
        folder.mkdir(parents=True)
        (folder / f"{slug}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        (folder / "timestamp.txt").write_text(TIME, encoding="utf-8")
        names.append(student)
    return names
