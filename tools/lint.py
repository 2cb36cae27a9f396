"""Holds chapters against the rules that keep them sound: `python -m tools.lint [CHAPTER ...]`, one line a finding.

A finding names file and line, the rule, and what to do. A rule can be waived where it does not fit, in the cell or beside the
exercise that breaks it, with a reason: `# lint: allow few-misconceptions, there are only four factors to get wrong`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from tools import lint_built, lint_checks, lint_exercises, lint_text, notebooks
from tools.chapter import CODE_ROOT, BuildError, Cell, Course, read_cells
from tools.lint_text import Finding

_ALLOW = re.compile(r"# lint: allow (?P<rule>[a-z-]+)(?:, (?P<reason>\S.*))?")

RULES = (
    lint_text.RULES
    | lint_exercises.RULES
    | lint_checks.RULES
    | lint_built.RULES
    | {
        "build": "the builder accepts the chapter",
        "built": "built notebooks are as their text says, every cell executed, none left over",
        "allow": "a waiver names a rule that exists and gives a reason",
    }
)
"""Every rule by name, with what it wants."""


def lint_chapter(course: Course, slug: str) -> list[Finding]:
    """The findings in one chapter's texts and built notebooks, waived ones left out, by file and line."""
    findings: list[Finding] = []
    allowed: list[Allowance] = []
    for name, rules in (("lesson.py", lint_text.lesson), ("exercises.py", lint_exercises.exercises)):
        path = course.text(slug, name)
        try:
            cells = read_cells(path)
            findings += rules(cells, path)
        except BuildError as error:
            findings.append(_from_build(error))
            continue
        allowed += allowances(path, [(cell.line, _last_line(cell)) for cell in cells])
        built = course.lesson(slug) if name == "lesson.py" else course.solution(slug)
        findings += lint_built.notebook(built, cells, path, is_lesson=name == "lesson.py")
    path = course.text(slug, "checks.py")
    if path.is_file():
        allowed += allowances(path, lint_checks.spans(path))
        findings += lint_checks.checks(path, slug, course.folder)
    findings += [Finding(a.path, a.line, "allow", a.trouble) for a in allowed if a.trouble]
    kept = [f for f in findings if not any(a.covers(f) for a in allowed)]
    return sorted(kept, key=lambda f: (str(f.path), f.line, f.rule))


class Allowance:
    """One waiver: the rule, and the lines of its file that it covers."""

    def __init__(self, path: Path, line: int, rule: str, reason: str | None, spans: Iterable[tuple[int, int]]) -> None:
        self.path, self.line, self.rule = path, line, rule
        self.lines = next((span for span in spans if span[0] <= line <= span[1]), (line, line))
        self.trouble = ""
        if rule not in RULES:
            self.trouble = f"no rule is called {rule!r}; see python -m tools.lint --rules"
        elif not reason:
            self.trouble = f"say why {rule} does not fit here: `# lint: allow {rule}, BECAUSE`"

    def covers(self, finding: Finding) -> bool:
        return (
            not self.trouble
            and finding.path == self.path
            and finding.rule == self.rule
            and self.lines[0] <= finding.line <= self.lines[1]
        )


def allowances(path: Path, spans: list[tuple[int, int]]) -> list[Allowance]:
    """The waivers in a file; `spans` are the line ranges (cells, exercises) that a waiver inside them covers."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := _ALLOW.search(line):
            found.append(Allowance(path, number, match["rule"], match["reason"], spans))
    return found


def lint_course(course: Course, slugs: list[str]) -> list[Finding]:
    """The findings in the chapters, and whether all that is built is as its text says."""
    findings = [finding for slug in slugs for finding in lint_chapter(course, slug)]
    findings += lint_text.across([(course.text(slug, "lesson.py"), slug) for slug in slugs])
    broken = {(f.path, f.line) for f in findings if f.rule == "build"}
    makers = [maker for slug in slugs for maker in notebooks.targets(course, slug)] + list(notebooks.pages(course))
    for maker in makers:
        try:
            target = maker()
        except BuildError as error:
            finding = _from_build(error)
            if (finding.path, finding.line) not in broken:
                broken.add((finding.path, finding.line))
                findings.append(finding)
            continue
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            wrong = notebooks.compare(target, course.relative(target.path))
        if wrong:
            findings.append(Finding(target.path, 1, "built", said.getvalue().strip().split(": ", 1)[1]))
    findings += [Finding(path, 1, "built", "no chapter builds it; delete it") for path in notebooks.orphans(course)]
    return findings


def _from_build(error: BuildError) -> Finding:
    return Finding(Path(error.where), error.line, "build", error.message)


def _last_line(cell: Cell) -> int:
    return cell.line + cell.source.count("\n") + 1


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0 without findings."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.lint", description="Hold the course's chapters against its rules."
    )
    parser.add_argument(
        "chapters", nargs="*", metavar="CHAPTER", help="chapters by slug or number (default: all of them)"
    )
    parser.add_argument("--rules", action="store_true", help="list the rules and end")
    parser.add_argument("--root", type=Path, default=CODE_ROOT, help="the folder that holds course/ and lessons/")
    options = parser.parse_args(argv)
    if options.rules:
        print("\n".join(f"{name:20s} {wants}" for name, wants in sorted(RULES.items())))
        return 0
    course = Course(options.root.resolve())
    try:
        slugs = [course.find(wanted) for wanted in options.chapters] or course.slugs()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    findings = lint_course(course, slugs)
    for finding in findings:
        where = finding.path.relative_to(course.root) if finding.path.is_relative_to(course.root) else finding.path
        print(f"{where}:{finding.line}: {finding.rule}: {finding.message}")
    print(f"{len(findings)} finding{'s' * (len(findings) != 1)} in {len(slugs)} chapter{'s' * (len(slugs) != 1)}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
