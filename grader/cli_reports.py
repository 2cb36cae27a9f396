"""The commands of `llmcourse` that explain scores and look at a class: audit, override, statistics, similar, due, extend, late."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grader import course
from grader.feedback import clean

out = Console(highlight=False, soft_wrap=True)

Student = Annotated[str, typer.Argument(help="the student's name, as in course/submitted")]
Assignment = Annotated[str, typer.Argument(help="an assignment such as 02_attention_scaling")]
Root = Annotated[Path | None, typer.Option("--course", help="the course folder; found from here when left out")]


def register(app: typer.Typer) -> None:
    """Adds the commands of this file to `llmcourse`."""
    for command in (audit, override, statistics, similar, due, extend, late):
        app.command()(command)


def find(given: Path | None, assignment: str) -> tuple[Path, str]:
    """(course folder, assignment). Raises FileNotFoundError or ValueError with what to do."""
    if given is not None and not (given / "chapters").is_dir():
        raise FileNotFoundError(
            f"{given} holds no folder chapters/; name the course folder, the one that holds chapters/ and source/"
        )
    root = given.resolve() if given else course.find_root()
    return root, course.load(assignment.rstrip("/"), root).slug


def text(value: Any) -> str:
    """A value as one harmless line for a table cell: no markup, no control characters."""
    return escape(" ".join(clean(str(value), 300).split()))


def audit(
    student: Student,
    assignment: Assignment,
    exercise: Annotated[list[str] | None, typer.Option(help="only this exercise; may be given again")] = None,
    replay: Annotated[bool, typer.Option("--replay", help="judge again with the same seeds and compare")] = False,
    course_folder: Root = None,
) -> None:
    """Explain a score case by case from the ledger; --replay asks the same questions again. Exit code 1 when something does not agree."""
    from grader import audit as auditing

    root, slug = find(course_folder, assignment)
    found = auditing.audit(root, student, slug)
    entries = {e["exercise"]: e for e in found.record["exercises"]}
    for name in exercise or ():
        if name not in entries:
            raise ValueError(f"the record has no exercise {name!r}; it has: {', '.join(entries)}")
    _print_record(found)
    out.print(_overview(found, list(exercise or entries)))
    chapter = course.load(slug, root)
    same_checks = not any("checks" in sentence for sentence in found.changed)
    for name in exercise or ():
        _print_exercise(auditing.case_lines(chapter, entries[name], same_checks), entries[name])
    for item in found.overrides:
        given = "taken back" if item["points"] is None else f"{item['points']:g} points"
        out.print(
            f"Override, record {item['n']}, {item['time'][:16]} UTC, by {text(item['by'])}: "
            f"{text(item['exercise'])} {given}. {text(item['reason'])}"
        )
    for place in found.unusual:
        out.print(f"Worth a look: {text(place)}")
    for sentence in found.changed:
        out.print(f"Since then: {text(sentence)}")
    for sentence in found.faults:
        out.print(f"[bold red]Does not agree:[/] {text(sentence)}")
    differs = _print_replay(auditing.replay(root, found, exercise), found) if replay else False
    if found.faults or differs:
        raise typer.Exit(1)


def _print_record(found: Any) -> None:
    record, chain = found.record, found.chain
    total = sum(e["points"] for e in record["exercises"])
    possible = sum(e["max_points"] for e in record["exercises"])
    out.print(
        f"[bold]{text(found.student)}, {text(found.assignment)}: {total:g} of {possible:g} points by the judge[/]"
    )
    if found.standing is not None:
        row = found.standing
        late = f", {row.penalty:g} of penalty taken off" if row.penalty else ""
        waiting = "; something waits for a person" if row.needs_manual else ""
        out.print(f"In the gradebook: {row.score:g} of {row.max_score:g}{late}{waiting}")
    handed_in = f", handed in {record['submitted_at'][:16]} UTC" if record.get("submitted_at") else ""
    out.print(f"Record {record['n']} of {chain.records}, {record['time'][:16]} UTC, {record['walls']}{handed_in}")
    versions = record.get("versions", {})
    out.print("With " + ", ".join(f"{text(name)} {text(value)}" for name, value in sorted(versions.items())))
    out.print(f"Submission {record['submission_sha256'][:16]}, record hash {record['hash'][:16]}")
    state = "whole" if chain.ok else f"DAMAGED: {text(chain.bad)}"
    out.print(f"Ledger: {chain.records} records, chain {state}, head {chain.head[:16]}")
    for problem in record.get("problems", []):
        out.print(f"Note: {text(problem)}")
    for old in found.earlier:
        points = sum(e["points"] for e in old["exercises"])
        out.print(f"Earlier: record {old['n']}, {old['time'][:16]} UTC, {points:g} points")


def _overview(found: Any, names: list[str]) -> Table:
    table = Table("exercise", "verdict", "points", "cases", "what it looks like", "seed", "s", "CPU s", "MiB")
    for entry in found.record["exercises"]:
        if entry["exercise"] in names:
            cost = entry.get("cost") or {}
            table.add_row(
                text(entry["exercise"]),
                entry["outcome"].replace("_", " "),
                f"{entry['points']:g} of {entry['max_points']:g}",
                f"{entry['passed']} of {entry['total']}",
                text(entry.get("diagnosis") or entry.get("label") or "; ".join(entry.get("notes", []))),
                str(entry["seed"]),
                _number(cost.get("seconds"), 1),
                _number(cost.get("cpu_seconds"), 1),
                _number(cost.get("peak_bytes"), 1 << 20),
            )
    return table


def _number(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:.2f}" if unit == 1 else f"{value / unit:.0f}"


def _print_exercise(lines: list[Any], entry: dict[str, Any]) -> None:
    table = Table("case", "about", "asked", "result", title=text(entry["exercise"]), title_justify="left")
    for n, line in enumerate(lines, 1):
        table.add_row(str(n), text(line.label), text(line.asked), text(line.result))
    out.print(table)
    if entry.get("message"):
        out.print(f"First failure: {text(entry['message'])}")
    for note in entry.get("notes", []):
        out.print(f"Note: {text(note)}")


def _print_replay(replayed: list[Any], found: Any) -> bool:
    """Prints what the replay gave; True when any verdict differs."""
    differing = [item for item in replayed if item.differences]
    out.print(
        f"Replayed {len(replayed)} exercises with the recorded seeds: {len(replayed) - len(differing)} verdicts are the same"
    )
    for item in differing:
        for difference in item.differences:
            out.print(f"[bold red]Differs:[/] {text(item.exercise)}: {text(difference)}")
    if differing and not found.changed:
        out.print("Nothing that the record knows has changed: the answer may depend on time, chance or the machine.")
    return bool(differing)


def override(
    student: Student,
    assignment: Assignment,
    exercise: Annotated[str, typer.Argument(help="the exercise whose points a person decides")],
    points: Annotated[float | None, typer.Argument(help="the points it gets; leave out with --withdraw")] = None,
    reason: Annotated[str, typer.Option(help="why; the student and an auditor can read it")] = "",
    by: Annotated[str, typer.Option(help="who decides; your user name when left out")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="take an earlier override back")] = False,
    course_folder: Root = None,
) -> None:
    """Give an exercise other points, with a reason: a new record in the ledger, a manual score in the gradebook."""
    from grader import audit as auditing

    root, slug = find(course_folder, assignment)
    if withdraw is (points is not None):
        raise ValueError("give the points, or --withdraw to take an earlier override back, not both")
    record = auditing.override(root, student, slug, exercise, points, reason, by)
    said = "taken back" if points is None else f"{points:g} points"
    out.print(
        f"{text(student)}, {slug}, {text(exercise)}: {said}; record {record['n']} of the ledger, by {text(record['by'])}"
    )


def statistics(
    assignment: Assignment,
    figure: Annotated[Path | None, typer.Option(help="also draw it, as .svg, .png or .pdf")] = None,
    cases: Annotated[bool, typer.Option("--cases", help="name the cases that everybody passes")] = False,
    course_folder: Root = None,
) -> None:
    """Per exercise: how many solved it, the usual mistakes, and cases that everybody passes or nobody does."""
    from grader import audit as auditing
    from grader import item_statistics

    root, slug = find(course_folder, assignment)
    items = item_statistics.collect(root, slug)
    table = Table(
        "exercise", "tried", "right", "mean points", "tells apart", "usual mistakes", title=slug, title_justify="left"
    )
    for item in items:
        share = "-" if item.share_right is None else f"{item.right} ({100 * item.share_right:.0f} %)"
        apart = "-" if item.discrimination is None else f"{item.discrimination:+.2f}"
        usual = "\n".join(f"{count} {text(name)}" for name, count in item.mistakes.most_common(3))
        table.add_row(
            text(item.name),
            f"{item.tried} of {item.submissions}",
            share,
            f"{item.mean_points:.2f} of {item.max_points:g}",
            apart,
            usual,
        )
    out.print(table)
    for item in items:
        for label in item.cases_that(everybody=False):
            out.print(f'{text(item.name)}: nobody passes the case "{text(label)}"; is it asked for in the text?')
        if labels := item.cases_that(everybody=True):
            named = f": {'; '.join(text(label) for label in labels)}" if cases else ""
            out.print(f"{text(item.name)}: everybody passes {len(labels)} of {len(item.cases)} cases{named}")
    for student, places in auditing.unusual_in_class(root, slug).items():
        out.print(f"Worth a look: {text(student)}: {text('; '.join(places))}")
    if figure:
        item_statistics.figure(items, f"{slug}: {max(i.submissions for i in items)} submissions", figure)
        out.print(f"wrote {figure}")


def similar(
    assignment: Assignment,
    threshold: Annotated[float, typer.Option(help="share of the shorter answer from which a pair is listed")] = 0.6,
    sources: Annotated[bool, typer.Option("--sources", help="show both answers of each pair side by side")] = False,
    course_folder: Root = None,
) -> None:
    """Answers that resemble each other more than the task explains: a list for you to look at, not a verdict."""
    from grader import similarity

    root, slug = find(course_folder, assignment)
    pairs = similarity.similar(root, slug, threshold)
    table = Table("exercise", "students", "shared", "fragments", "same comments", title=slug, title_justify="left")
    for pair in pairs:
        names = f"{text(pair.one)}, {text(pair.other)}"
        table.add_row(
            text(pair.exercise),
            names,
            f"{100 * pair.share:.0f} %",
            str(pair.shared),
            text("; ".join(pair.same_comments)),
        )
    if pairs:
        out.print(table)
    out.print(
        f"{len(pairs)} pairs share at least {100 * threshold:.0f} % of what the task does not explain. Working together, a "
        "common source and chance look the same here: read both answers before you ask anyone."
    )
    if sources:
        for pair in pairs:
            out.print(_side_by_side(root, slug, pair))


def _side_by_side(root: Path, slug: str, pair: Any) -> Table:
    from grader.grading import manifest
    from grader.intake import read_submission

    table = Table(text(pair.one), text(pair.other), title=f"{text(pair.exercise)}", title_justify="left")
    wanted = manifest(course.load(slug, root))
    cells = [
        read_submission(root / "submitted" / name / slug / f"{slug}.ipynb", wanted).cells.get(pair.exercise, "")
        for name in (pair.one, pair.other)
    ]
    table.add_row(*(escape(clean(cell, 20_000)) for cell in cells))
    return table


def due(
    assignment: Assignment,
    when: Annotated[
        str | None, typer.Argument(help="such as '2026-12-01 23:59 Europe/Berlin'; shows it when left out")
    ] = None,
    never: Annotated[bool, typer.Option("--never", help="take the due date away")] = False,
    course_folder: Root = None,
) -> None:
    """Set or show when an assignment is due, in nbgrader's gradebook; late submissions are then told and priced."""
    from grader import bridge, lateness

    root, slug = find(course_folder, assignment)
    if when or never:
        bridge.set_due(root, slug, lateness.parse_due(when) if when else None)
        bridge.refresh_late_penalties(root, slug)
    moment = bridge.due_date(root, slug)
    out.print(f"{slug} is due {moment:%Y-%m-%d %H:%M} UTC" if moment else f"{slug} has no due date")


def extend(
    student: Student,
    assignment: Assignment,
    days: Annotated[
        float,
        typer.Option(min=0, max=3650, help="days after the due date; replaces an earlier extension, 0 takes it back"),
    ],
    course_folder: Root = None,
) -> None:
    """Give one student more time for an assignment."""
    from grader import bridge

    root, slug = find(course_folder, assignment)
    bridge.extend(root, slug, student, days)
    bridge.refresh_late_penalties(root, slug)
    out.print(f"{text(student)}: {days:g} days more for {slug}")


def late(
    assignment: Annotated[str | None, typer.Argument(help="only this assignment")] = None,
    course_folder: Root = None,
) -> None:
    """Who handed in late, by how many days, and what it cost; the total of late days by student."""
    from grader import bridge, lateness

    root = find(course_folder, assignment)[0] if assignment else (course_folder or course.find_root())
    rows = [r for r in bridge.rows(root, assignment) if r.seconds_late > 0]
    table = Table("student", "assignment", "due (UTC)", "handed in", "days late", "points taken off")
    for row in sorted(rows, key=lambda r: (r.student, r.assignment)):
        days = str(lateness.days_late(row.seconds_late))
        times = (f"{row.due:%Y-%m-%d %H:%M}", f"{row.timestamp:%Y-%m-%d %H:%M}")
        table.add_row(text(row.student), row.assignment, *times, days, f"{row.penalty:g}")
    out.print(table if rows else "nobody is late")
    totals = Counter({row.student: 0 for row in rows})
    for row in rows:
        totals[row.student] += lateness.days_late(row.seconds_late)
    if rows:
        out.print("late days: " + ", ".join(f"{text(name)} {days}" for name, days in totals.most_common()))


def collect_zip(root: Path, assignment: str | None, archive: Path, roster: Path | None) -> None:
    """What `llmcourse collect ASSIGNMENT --zip FILE` does. Raises: ValueError, FileNotFoundError."""
    from grader import archives, bridge

    if assignment is None:
        raise ValueError("name the assignment that the archive is of: llmcourse collect 03_norms --zip FILE")
    slug = course.load(assignment.rstrip("/"), root).slug
    intake = archives.collect(root, slug, archive, roster)
    if intake.people:
        bridge.note_people(root, intake.people)
    for note in intake.notes:
        out.print(f"Note: {text(note)}")
    if intake.late:
        out.print(f"Marked late by Canvas, which tells no time: {text(', '.join(intake.late))}")
    out.print(f"{slug}: {len(intake.collected)} collected, {len(intake.unchanged)} had nothing newer")
