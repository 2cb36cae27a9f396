"""The grader's mutation score: every known wrong answer must lose its points and be named, every right variant must keep its points.

    python -m grader.mutation                      all chapters, a table on the screen
    python -m grader.mutation 02_attention_scaling --verbose
    python -m grader.mutation --write docs/mutation.md

Exit code 1 when a wrong answer passes, a right one fails, or fewer than 90 % of the wrong ones are named.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader import course
from grader.exercise import Exercise
from grader.judge import LocalStudent, Verdict, judge
from grader.policy import scan, withhold

DIAGNOSED_TARGET = 0.9


@dataclass
class Score:
    """The counts of one exercise, and a sentence for each thing that went wrong."""

    chapter: str
    exercise: str
    wrong: int = 0
    caught: int = 0
    diagnosed: int = 0
    right: int = 0
    accepted: int = 0
    complaints: list[str] = field(default_factory=list)


def verdict_on(chapter: course.Chapter, exercise: Exercise, source: str, seed: int) -> Verdict:
    """The judge's verdict on one trusted source, in this process, forbidden names withheld as in grading."""
    try:
        namespace = chapter.namespace(exercise, source)
    except Exception as error:
        raise ValueError(
            f"{chapter.slug}, {exercise.name}: an answer does not run: {type(error).__name__}: {error}"
        ) from error
    withheld = withhold(exercise.forbids)
    return judge(chapter, exercise, LocalStudent(namespace, guard=lambda: withheld), seed)


def score_exercise(chapter: course.Chapter, exercise: Exercise, seeds: list[int]) -> Score:
    """Runs the worked solution, the variants and the misconceptions of one exercise, each on every seed."""
    score = Score(chapter.slug, exercise.name)
    for name, source in [
        ("the worked solution", chapter.solutions[exercise.name]),
        *((v.name, chapter.source_of(exercise, v)) for v in exercise.variants),
    ]:
        verdicts = [verdict_on(chapter, exercise, source, seed) for seed in seeds]
        uses = scan(source, exercise.forbids)
        good = all(v.ok for v in verdicts) and not uses
        if name != "the worked solution":
            score.right += 1
            score.accepted += good
        if not good:
            why = (
                str(uses[0]) if uses else next(f"{v.failure.label}: {v.failure.message}" for v in verdicts if v.failure)
            )
            score.complaints.append(f"right answer refused: {name} ({why})")
    for item in exercise.misconceptions:
        verdicts = [verdict_on(chapter, exercise, chapter.source_of(exercise, item), seed) for seed in seeds]
        score.wrong += 1
        caught = not any(v.ok for v in verdicts)
        score.caught += caught
        told = {v.diagnosis.name if v.diagnosis else "nothing" for v in verdicts}
        named = caught and told <= {item.name, *item.same_as}
        score.diagnosed += named
        if not caught:
            score.complaints.append(f"wrong answer passes: {item.name}")
        elif not named:
            score.complaints.append(f"not named: {item.name} (told: {', '.join(sorted(told))})")
    return score


def table(scores: list[Score]) -> str:
    """The Markdown table of `docs/mutation.md`."""
    lines = [
        "| chapter | exercise | wrong answers | caught | diagnosed | right variants | accepted |",
        "|---|---|--:|--:|--:|--:|--:|",
        *(
            f"| {s.chapter} | `{s.exercise}` | {s.wrong} | {s.caught} | {s.diagnosed} | {s.right} | {s.accepted} |"
            for s in scores
        ),
    ]
    total = [sum(getattr(s, name) for s in scores) for name in ("wrong", "caught", "diagnosed", "right", "accepted")]
    lines.append(f"| **all** | {len(scores)} exercises | " + " | ".join(f"**{n}**" for n in total) + " |")
    return "\n".join(lines)


def page(scores: list[Score]) -> str:
    wrong, caught, named = (sum(getattr(s, n) for s in scores) for n in ("wrong", "caught", "diagnosed"))
    right, accepted = (sum(getattr(s, n) for s in scores) for n in ("right", "accepted"))
    return f"""# Mutation score of the grader

A graded exercise is worth what its checks catch. Each exercise comes with plausible wrong answers and with right answers that look different.
`make mutation` runs them all through the judge and writes this page.

- Wrong answers that lose their points: **{caught} of {wrong}** ({100 * caught / max(wrong, 1):.1f} %).
- Wrong answers that are told their own mistake by name: **{named} of {wrong}** ({100 * named / max(wrong, 1):.1f} %).
- Right but different answers that keep their points: **{accepted} of {right}** ({100 * accepted / max(right, 1):.1f} %).

{table(scores)}
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m grader.mutation", description="Measures what the checks catch.")
    parser.add_argument("chapters", nargs="*", help="chapter slugs; all when none is given")
    parser.add_argument("--exercise", help="one exercise alone")
    parser.add_argument("--write", type=Path, help="write the page to this file")
    parser.add_argument(
        "--seeds", type=int, default=2, help="rounds of fresh random inputs for each answer (default 2)"
    )
    parser.add_argument("--verbose", action="store_true", help="print each exercise as it is done")
    options = parser.parse_args(arguments)
    scores: list[Score] = []
    for slug in options.chapters or course.slugs():
        chapter = course.load(slug)
        for exercise in chapter.exercises.values():
            if options.exercise not in (None, exercise.name):
                continue
            scores.append(score_exercise(chapter, exercise, [11 + 1000 * n for n in range(options.seeds)]))
            last = scores[-1]
            if options.verbose or last.complaints:
                print(
                    f"{slug} {last.exercise}: {last.caught}/{last.wrong} caught, {last.diagnosed} named, {last.accepted}/{last.right} accepted",
                    flush=True,
                )
                for complaint in last.complaints:
                    print(f"    {complaint}", flush=True)
    print(table(scores))
    if options.write:
        options.write.write_text(page(scores), encoding="utf-8")
    return 0 if meets_targets(scores) else 1


def meets_targets(scores: list[Any]) -> bool:
    """Every wrong answer caught, every right one accepted (the worked solutions too), nine in ten wrong ones named."""
    wrong, named = sum(s.wrong for s in scores), sum(s.diagnosed for s in scores)
    refused = any(c.startswith("right answer refused") for s in scores for c in s.complaints)
    return (
        not refused
        and all(s.caught == s.wrong and s.accepted == s.right for s in scores)
        and named >= DIAGNOSED_TARGET * wrong
    )


if __name__ == "__main__":
    sys.exit(main())
