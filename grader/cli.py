"""`llmcourse`: the commands of an instructor and of a learner. `llmcourse --help` lists them."""

from __future__ import annotations

import csv
import io
import os
import sys
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from grader import cli_reports, course, exchange

HELP = """Release, collect, grade and return the course's assignments.

As a learner:     llmcourse submit 02_attention_scaling, later llmcourse feedback 02_attention_scaling

As an instructor: llmcourse release, collect, grade, feedback, export, each with an assignment or for all
                  llmcourse audit, override, statistics, similar explain scores and show how a class did
"""
app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Assignment = Annotated[str | None, typer.Argument(help="an assignment such as 02_attention_scaling; all when left out")]
Root = Annotated[Path | None, typer.Option("--course", help="the course folder; found from here when left out")]


def _root(given: Path | None) -> Path:
    if given is not None and not (given / "chapters").is_dir():
        raise FileNotFoundError(
            f"{given} holds no folder chapters/; name the course folder, the one that holds chapters/ and source/"
        )
    return given.resolve() if given else course.find_root()


def _assignments(root: Path, named: str | None) -> list[str]:
    if named is None:
        return course.slugs(root)
    return [course.load(named.rstrip("/"), root).slug]


@app.command()
def release(assignment: Assignment = None, course_folder: Root = None) -> None:
    """Make the student version of an assignment, with nbgrader's own generate_assignment."""
    from grader import bridge

    root = _root(course_folder)
    for slug in _assignments(root, assignment):
        path = bridge.generate_release(root, slug)
        out.print(f"released {slug}: {_short(path)}")


@app.command()
def submit(
    assignment: Annotated[str, typer.Argument(help="the assignment you hand in")],
    notebook: Annotated[Path | None, typer.Option(help="the notebook; looked for in your folder when left out")] = None,
    student: Annotated[str | None, typer.Option(help="hand in under this name; your user name when left out")] = None,
    course_folder: Root = None,
) -> None:
    """Hand in a notebook (learner). You can hand in again; the newest counts."""
    root = _root(course_folder)
    slug = _assignments(root, assignment)[0]
    found = notebook or _own_notebook(root, slug)
    exchange.submit(root, slug, found, student or exchange.user_name())
    out.print(f"handed in {slug} as {student or exchange.user_name()}: {_short(found)}")
    out.print(f"When it has been graded, `llmcourse feedback {slug}` fetches what came of it.")


def _own_notebook(root: Path, slug: str) -> Path:
    """The learner's copy: beside them, in their folder, or in my_course beside the course."""
    name = f"{slug}.ipynb"
    here = Path.cwd()
    places = [
        f / p
        for f in (here, *here.parents, root.parent / "my_course")
        for p in (f"assignments/{slug}/{name}", f"{slug}/{name}")
    ]
    for place in [here / name] * (here.name == slug) + places:
        if place.is_file() and "source" not in place.parts and "release" not in place.parts:
            return place
    raise FileNotFoundError(
        f"no notebook {name} of yours found from {here}; go to the folder that holds it, or name it with --notebook"
    )


@app.command()
def collect(
    assignment: Assignment = None,
    archive: Annotated[
        Path | None, typer.Option("--zip", help="the zip of all submissions from Canvas or Moodle")
    ] = None,
    roster: Annotated[
        Path | None, typer.Option(help="with --zip: Canvas' gradebook export or Moodle's grading worksheet, for logins")
    ] = None,
    course_folder: Root = None,
) -> None:
    """Take what learners handed in into course/submitted; the newest of each counts."""
    root = _root(course_folder)
    if archive is not None:
        cli_reports.collect_zip(root, assignment, archive, roster)
        return
    for slug in _assignments(root, assignment):
        collected, kept = exchange.collect(root, slug)
        out.print(f"{slug}: {len(collected)} collected, {len(kept)} had nothing newer")


@app.command()
def grade(
    assignment: Assignment = None,
    student: Annotated[list[str] | None, typer.Option(help="only this student; may be given again")] = None,
    workers: Annotated[int, typer.Option(min=1, help="submissions judged side by side")] = max(
        1, min(4, (os.cpu_count() or 1))
    ),
    regrade: Annotated[
        bool, typer.Option("--regrade", help="look again at what has a result; only what changed is judged again")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="judge every exercise again, changed or not")] = False,
    scheduler: Annotated[
        str | None, typer.Option(help="judge on the Dask cluster at this address, such as tls://10.0.0.1:8786")
    ] = None,
    db: Annotated[
        str | None, typer.Option(help="the gradebook, such as postgresql+psycopg://grader@host/course")
    ] = None,
    unsafe_local: Annotated[
        bool,
        typer.Option("--unsafe-local", help="without a sandbox: only for answers that you trust, on your own machine"),
    ] = False,
    course_folder: Root = None,
) -> None:
    """Grade what was collected, in the sandbox. Killed at any moment, the same command goes on where it stopped."""
    from grader.audit import note_manual_scores
    from grader.bridge import DB_VARIABLE
    from grader.grading import grade_assignment

    root = _root(course_folder)
    if db:
        os.environ[DB_VARIABLE] = db
    flagged: list[str] = []
    for slug in _assignments(root, assignment):
        if assignment is None and not exchange.submitted(root, slug):
            continue
        with _bar(f"grading {slug}") as tell:
            report = grade_assignment(
                root,
                slug,
                students=student,
                workers=workers,
                regrade=regrade,
                fresh=fresh,
                unsafe_local=unsafe_local,
                scheduler=scheduler,
                tell=tell,
                say=err.print,
            )
        note_manual_scores(root, slug)
        out.print(f"{slug}: {len(report.graded)} graded, {len(report.unchanged)} unchanged")
        for change in report.changed:
            out.print(f"  other than before: {change}", markup=False)
        flagged += [f"{s} ({slug})" for s in report.flagged]
    if flagged:
        raise RuntimeError(
            f"the grader itself failed on {', '.join(flagged)}; nothing is lost, run the command again or look at course/results"
        )


def _bar(title: str) -> Any:
    """A progress bar on a terminal, nothing elsewhere; yields the function that moves it."""
    from contextlib import contextmanager

    @contextmanager
    def shown() -> Any:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total, result: progress.update(task, completed=done, total=total)

    return shown()


@app.command()
def feedback(
    assignment: Annotated[str, typer.Argument(help="the assignment")],
    student: Annotated[
        str | None, typer.Option(help="as an instructor: only this student; as a learner: your name when you handed in")
    ] = None,
    course_folder: Root = None,
) -> None:
    """Return feedback (instructor, in the course), or fetch and read yours (learner, in your folder)."""
    root = _root(course_folder)
    slug = _assignments(root, assignment)[0]
    if any((f / ".state.json").is_file() for f in (Path.cwd(), *Path.cwd().parents)):
        _fetch_feedback(root, slug, student or exchange.user_name())
        return
    from grader import bridge
    from grader.audit import note_manual_scores, standings
    from grader.feedback import write_page
    from grader.grading import read_result

    if bridge.rows(root, slug):
        bridge.refresh_late_penalties(root, slug)
        note_manual_scores(root, slug)
    stands = standings(root, slug)
    everyone = [student] if student else exchange.submitted(root, slug)
    returned = 0
    for name in everyone:
        result = read_result(root, slug, name)
        if result is None:
            if student:
                raise ValueError(
                    f"no result of {slug} for {name!r}; run `llmcourse grade {slug} --student {name}` first"
                )
            continue
        write_page(root, result, course.load(slug, root).title, stands.get(name))
        exchange.return_feedback(root, slug, name)
        returned += 1
    out.print(f"{slug}: feedback returned to {returned} of {len(everyone)}; pages in {_short(root / 'feedback')}")


def _fetch_feedback(root: Path, slug: str, student: str) -> None:
    from grader.feedback import entry_text
    from grader.grading import read_result

    page = exchange.exchange_root(root) / "feedback" / exchange.check_student(student) / slug / f"{slug}.html"
    if not page.is_file():
        raise FileNotFoundError(
            f"no feedback on {slug} for {student} yet; it comes after your instructor runs `llmcourse grade` and `llmcourse feedback`"
        )
    result = read_result(root, slug, student)
    for item in result["exercises"] if result else []:
        out.print(entry_text(item), markup=False)
    out.print(f"The same as a page: {_short(page)}")


@app.command()
def status(assignment: Assignment = None, course_folder: Root = None) -> None:
    """A table: handed in, collected, graded, waiting for a person, mean score."""
    from grader import bridge
    from grader.grading import read_result

    root = _root(course_folder)
    table = Table("assignment", "handed in", "collected", "graded", "failed", "needs a person", "mean")
    for slug in _assignments(root, assignment):
        handed_in = {h.student for h in exchange.hand_ins(root, slug)}
        collected = exchange.submitted(root, slug)
        results = [r for s in collected if (r := read_result(root, slug, s))]
        failed = sum(any(e["outcome"] == "infrastructure" for e in r["exercises"]) for r in results)
        rows = bridge.rows(root, slug)
        average = f"{mean(r.score for r in rows):.1f} of {rows[0].max_score:g}" if rows else "-"
        waiting = sum(r.needs_manual for r in rows)
        table.add_row(slug, *(str(n) for n in (len(handed_in), len(collected), len(results), failed, waiting)), average)
    out.print(table)


@app.command()
def export(
    assignment: Assignment = None,
    layout: Annotated[str, typer.Option("--format", help="plain, canvas or moodle")] = "plain",
    column: Annotated[
        list[str] | None, typer.Option(help="name a column otherwise, such as '03_norms=Norms (12345)' for Canvas")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="write to this file; the screen when left out")] = None,
    course_folder: Root = None,
) -> None:
    """The gradebook as CSV: a plain table, or what Canvas and Moodle import."""
    from grader import bridge

    root = _root(course_folder)
    slugs = _assignments(root, assignment)
    if layout not in ("plain", "canvas", "moodle"):
        raise ValueError(f"--format must be plain, canvas or moodle, got {layout!r}")
    scores: dict[str, dict[str, Any]] = {}
    heads = dict(pair.split("=", 1) for pair in column or () if "=" in pair)
    if wrong := [pair for pair in column or () if pair.split("=", 1)[0] not in slugs or "=" not in pair]:
        raise ValueError(f"--column wants ASSIGNMENT=HEADING with an assignment that is exported, got {wrong[0]!r}")
    for slug in slugs:
        if bridge.rows(root, slug):
            bridge.refresh_late_penalties(root, slug)
        for row in bridge.rows(root, slug):
            scores.setdefault(row.student, {})[slug] = row
    text = csv_text(
        scores,
        slugs,
        layout,
        {s: sum(course.load(s, root).points.values()) + sum(course.load(s, root).manual.values()) for s in slugs},
        heads,
    )
    if output:
        output.write_text(text, encoding="utf-8", newline="")
        out.print(f"wrote {len(scores)} students to {output}")
    else:
        sys.stdout.write(text)


def csv_text(
    scores: dict[str, dict[str, Any]],
    slugs: list[str],
    layout: str,
    possible: dict[str, float],
    heads: dict[str, str] | None = None,
) -> str:
    """The table as CSV. A cell that a spreadsheet would read as a formula is prefixed with an apostrophe.

    Canvas finds a student by ID, else by SIS Login ID, and an assignment by a heading such as "Norms (12345)"; under any other heading it
    makes a new one. Moodle asks which column names the user. `heads` gives columns other headings.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    head = {
        "plain": ["student"],
        "canvas": ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"],
        "moodle": ["Username"],
    }[layout]
    writer.writerow([*head, *(safe_cell((heads or {}).get(s, s)) for s in slugs)])
    if layout == "canvas":
        writer.writerow(["    Points Possible", "", "", "", "", *(f"{possible[s]:g}" for s in slugs)])
    for student, by_slug in sorted(scores.items()):
        name = safe_cell(student)
        known = next(iter(by_slug.values()), None)
        number, shown = (known.lms_id, safe_cell(known.name)) if known else ("", "")
        canvas = [shown or name, number, "", "" if number and student.endswith(f"-{number}") else name, ""]
        lead = {"plain": [name], "canvas": canvas, "moodle": [name]}[layout]
        writer.writerow([*lead, *(f"{by_slug[s].score:g}" if s in by_slug else "" for s in slugs)])
    return buffer.getvalue()


def safe_cell(text: str) -> str:
    """`text`, prefixed when a spreadsheet would take it for a formula.

    >>> safe_cell("=1+1"), safe_cell("ada")
    ("'=1+1", 'ada')
    """
    return f"'{text}" if text[:1] in "=+-@\t\r" else text


def _short(path: Path) -> str:
    """`path` as seen from here where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


cli_reports.register(app)


def main() -> None:
    """Runs a command; what a person can cause ends in one sentence and exit code 2."""
    try:
        app()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        err.print(f"llmcourse: {error}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
