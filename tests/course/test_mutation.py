"""Every exercise of the course: wrong answers lose their points and are named, right ones keep them, and the published page says so."""

import importlib.util
import re
from pathlib import Path

import pytest

from grader import course
from grader.mutation import DIAGNOSED_TARGET, score_exercise

ROOT = Path(__file__).resolve().parent.parent.parent
EXERCISES = [(slug, name) for slug in course.slugs() for name in course.load(slug).exercises]


@pytest.mark.parametrize(("slug", "name"), EXERCISES)
def test_wrong_answers_are_caught_and_right_ones_kept(slug, name):
    if name.startswith("triton_") and importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed; it runs on Linux only")
    chapter = course.load(slug)
    score = score_exercise(chapter, chapter.exercises[name], [4242])
    assert score.caught == score.wrong, score.complaints
    assert score.accepted == score.right, score.complaints
    assert not [c for c in score.complaints if c.startswith("right answer refused")], score.complaints
    assert score.diagnosed >= DIAGNOSED_TARGET * score.wrong, score.complaints


def test_the_published_page_counts_what_the_course_holds():
    page = (ROOT / "docs" / "mutation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| (\d+) \| (\d+) \| \d+ \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    published = {(slug, name): tuple(map(int, counts)) for slug, name, *counts in rows}
    held = {}
    for slug, name in EXERCISES:
        exercise = course.load(slug).exercises[name]
        wrong, right = len(exercise.misconceptions), len(exercise.variants)
        held[slug, name] = (wrong, wrong, right, right)
    assert published == held, "run `make mutation` and commit docs/mutation.md"
