"""The start page and the page of claims: their text is in `course/pages/`, the parts that can be computed are filled in here.

The map comes from the plan in `course/syllabus.md` and the first lines of the lessons; the verdicts from the outputs stored in the
executed lessons. Neither page is executed: progress is personal, and the rest is text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tools import build
from tools.build import Notebook
from tools.chapter import SLUG, BuildError, Course, Title, read_cells, read_title

_LATER = "later chapters"
_SIGNS = {
    "confirmed": "\N{CHECK MARK} confirmed",
    "refuted": "\N{BALLOT X} refuted",
    "depends": "\N{ALMOST EQUAL TO} depends",
}


@dataclass(frozen=True)
class Planned:
    """A row of the syllabus."""

    slug: str
    title: str
    question: str


def syllabus(course: Course) -> list[Planned]:
    """The planned chapters, in order. Raises: BuildError when the syllabus has no table of them."""
    path = course.folder / "syllabus.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    planned = [Planned(*row) for row in rows if len(row) == 3 and SLUG.fullmatch(row[0])]
    if not planned:
        raise BuildError(
            path,
            1,
            "it has no table of chapters; write rows such as `| 03_norms | Keeping signals in range | a question |`",
        )
    return planned


def start_page(course: Course) -> Notebook:
    """`lessons/00_start_here.ipynb`: the map, progress, and how things are done here."""
    return _page(course, "00_start_here", {"map": lambda: _map(course)})


def claims_page(course: Course) -> Notebook:
    """`lessons/claims.ipynb`: every verdict that the executed lessons hold, and the claims that wait for one."""
    found = verdicts(course)
    return _page(
        course,
        "claims",
        {
            "counts": lambda: _counts(course, found),
            "verdicts": lambda: _verdicts(found),
            "untested": lambda: _untested(course, found),
        },
    )


def verdicts(course: Course) -> dict[str, list]:
    """The claims recorded in each built lesson, by slug, in order of their ids."""
    from llmcore.claims import collect

    found = {}
    for slug in course.slugs():
        made = build.load(course.lesson(slug))
        claims = {claim.id: claim for claim in collect(made)} if made else {}
        found[slug] = [claims[name] for name in sorted(claims)]
    return found


def _page(course: Course, name: str, fills: dict[str, Callable[[], str]]) -> Notebook:
    path = course.folder / "pages" / f"{name}.py"
    if not path.is_file():
        raise BuildError(path, 1, "the page's text is missing; restore it")
    cells = []
    for number, item in enumerate(read_cells(path, keys=("fill",))):
        if item.key and item.name not in fills:
            raise BuildError(path, item.line, f"fill={item.name!r} means nothing here; it can be {', '.join(fills)}")
        source = fills[item.name]() if item.key else item.source
        cells.append(
            build.cell(
                item.cell_type, source, build.position_id(name, number), {"tags": list(item.tags)} if item.tags else {}
            )
        )
    relative = course.relative(path)
    cells[0]["source"] += f"\n\n<sub>Built from `{relative}`: edit that file and run `make notebooks`.</sub>"
    return build.notebook(cells, relative)


def _map(course: Course) -> str:
    existing = set(course.slugs())
    rows = []
    for plan in syllabus(course):
        if plan.slug in existing and course.text(plan.slug, "lesson.py").is_file():
            rows.append(_existing_row(course, plan))
        else:
            rows.append(f"| {plan.slug[:2]} | {plan.title} | {plan.question} | | | planned |")
    head = "## The map\n\n| | chapter | the question | minutes | builds on | do it |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n\nLinks to assignments work in your own copy, which `make lab` opens."


def _existing_row(course: Course, plan: Planned) -> str:
    path = course.text(plan.slug, "lesson.py")
    title: Title = read_title(read_cells(path), path)
    count = 0
    exercises = course.text(plan.slug, "exercises.py")
    if exercises.is_file():
        count = sum(cell.key == "exercise" for cell in read_cells(exercises))
    assignment = f"[{count} exercises](../assignments/{plan.slug}/{plan.slug}.ipynb)" if count else "planned"
    minutes = title.minutes if title.minutes is not None else ""
    return f"| {title.number} | [{title.title}]({plan.slug}.ipynb) | {plan.question} | {minutes} | {title.needs or 'nothing'} | {assignment} |"


def _counts(course: Course, found: dict[str, list]) -> str:
    from llmcore.claims import CLAIMS, VERDICTS

    titles = {plan.slug[:2]: f"{plan.slug[:2]} {plan.title}" for plan in syllabus(course)}
    tested = {claim.id: claim.verdict for claims in found.values() for claim in claims}
    counts: dict[str, Counter] = {}
    for name in CLAIMS:
        counts.setdefault(titles.get(name[1:3], _LATER), Counter())[tested.get(name, "open")] += 1
    counts["**all**"] = sum(counts.values(), Counter())
    rows = [[title, count.total(), *(count[v] for v in VERDICTS), count["open"]] for title, count in counts.items()]
    head = f"| chapter | claims | {' | '.join(VERDICTS)} | not yet tested |\n|---|---|---|---|---|---|\n"
    return "## How many\n\n" + head + "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def _verdicts(found: dict[str, list]) -> str:
    from llmcore.claims import format_value

    parts = ["## The verdicts"]
    for slug, claims in found.items():
        if not claims:
            continue
        parts.append(f"### [{slug}]({slug}.ipynb)\n\n| id | claim | verdict | evidence |\n|---|---|---|---|")
        for claim in claims:
            evidence = "; ".join(f"{name} = {format_value(value)}" for name, value in claim.evidence.items())
            note = f"<br>{_text(claim.note)}" if claim.note else ""
            on = f" on {claim.on}" if claim.on else ""
            parts[-1] += (
                f"\n| {claim.id} | {_text(claim.text)} | {_SIGNS[claim.verdict]}{_text(on)} | {_text(evidence)}{note} |"
            )
    return "\n\n".join(parts) if len(parts) > 1 else "## The verdicts\n\nNo lesson has recorded one yet."


def _untested(course: Course, found: dict[str, list]) -> str:
    from llmcore.claims import CLAIMS

    tested = {claim.id for claims in found.values() for claim in claims}
    titles = {plan.slug[:2]: f"{plan.slug[:2]} {plan.title}" for plan in syllabus(course)}
    waiting: dict[str, list[str]] = {}
    for name, claim in CLAIMS.items():
        if name not in tested:
            waiting.setdefault(titles.get(name[1:3], _LATER), []).append(f"- {name}: {_text(claim.text)}")
    if not waiting:
        return "## Not yet tested\n\nNone."
    return "## Not yet tested\n\n" + "\n\n".join(
        f"### {title}\n\n" + "\n".join(lines) for title, lines in waiting.items()
    )


def _text(text: str) -> str:
    """Text that means itself inside a Markdown table cell."""
    return re.sub(r"([\\`*_|<>$\[\]])", r"\\\1", text.replace("\n", " "))
