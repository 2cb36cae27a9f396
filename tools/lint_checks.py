"""Rules on `checks.py`: that each exercise knows how learners go wrong, how else one can be right, and how to help."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from tools.lint_text import Finding

MIN_MISCONCEPTIONS = 6
MIN_VARIANTS = 3
RULES = {
    "few-misconceptions": f"an exercise has at least {MIN_MISCONCEPTIONS} misconceptions, or a reason why not",
    "few-variants": f"an exercise has at least {MIN_VARIANTS} right variants, or a reason why not",
    "hints": "an exercise has three hints, each more than the one before",
    "says": "a misconception says a whole sentence that helps",
}


def checks(path: Path, slug: str, course: Path) -> list[Finding]:
    """The findings in a chapter's `checks.py`; none when it cannot be imported, which is the builder's to say."""
    from grader.course import load

    try:
        exercises = load(slug, course).exercises.values()
    except Exception:
        return []
    places = _places(path)
    found = []
    for exercise in exercises:
        line = places.get(exercise.name, (1, 1))[0]
        found += [Finding(path, line, rule, message) for rule, message in _exercise(exercise)]
    return found


def _exercise(exercise: object) -> Iterable[tuple[str, str]]:
    name = exercise.name
    wrong, right = len(exercise.misconceptions), len(exercise.variants)
    if wrong < MIN_MISCONCEPTIONS:
        yield (
            "few-misconceptions",
            f"{name} has {wrong} misconceptions, want {MIN_MISCONCEPTIONS}; add some, or say why not beside it",
        )
    if right < MIN_VARIANTS:
        yield "few-variants", f"{name} has {right} variants, want {MIN_VARIANTS}; add right answers that look different"
    hints = [hint.strip() for hint in exercise.hints]
    if not all(hints) or len(set(hints)) < 3:
        yield "hints", f"the hints of {name} must be three different texts; from a nudge to nearly the answer"
    for item in exercise.misconceptions:
        if len(item.says.split()) < 4 or not item.says.rstrip().endswith((".", "!", "?", ")", "`")):
            yield "says", f"{name}, {item.name!r}: say a whole sentence that helps, got {item.says!r}"


def spans(path: Path) -> list[tuple[int, int]]:
    """The lines of each exercise's definition, the comments right above it included."""
    return list(_places(path, above=True).values())


def _places(path: Path, *, above: bool = False) -> dict[str, tuple[int, int]]:
    """First and last line of each `Exercise(...)` call, by the exercise's name."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    found = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = next(
            (k.value.value for k in node.keywords if k.arg == "name" and isinstance(k.value, ast.Constant)), None
        )
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name is None or called in ("Misconception", "Variant"):
            continue
        start = node.lineno
        while above and start > 1 and lines[start - 2].lstrip().startswith("#"):
            start -= 1
        found.setdefault(name, (start, node.end_lineno or start))
    return found
