"""`check`, `grade` and `progress`: what a notebook calls.

`check(f)` judges in the learner's own process, in under a second, and returns a card. It is help, not a mark: official grading asks the same
kinds of questions with other numbers, from outside a sandbox.
"""

from __future__ import annotations

import builtins
import hashlib
import html
import inspect
import json
import os
import secrets
import sys
import textwrap
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader import course
from grader.exercise import Exercise, Outcome
from grader.judge import Diagnosis, Failure, LocalStudent, Verdict, judge
from grader.policy import Withheld, scan

CHECK_SEED = 20_260_101
"""`check` asks the same questions each time, so that a learner can compare two attempts."""

WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "not yet",
    Outcome.ERROR: "it raised an error",
    Outcome.NOT_ATTEMPTED: "not attempted yet",
    Outcome.POLICY: "uses what it should write",
    Outcome.MISSING: "not found",
}
# Okabe-Ito: told apart by colour-blind readers; the word and the sign say the same.
COLOURS = {Outcome.PASSED: "#009E73", Outcome.NOT_ATTEMPTED: "#767676"}
SIGNS = {Outcome.PASSED: "\N{CHECK MARK}", Outcome.NOT_ATTEMPTED: "\N{WHITE CIRCLE}"}


@dataclass
class Card:
    """What `check` returns: shown as a card in a notebook, as text in a terminal."""

    verdict: Verdict
    hints: tuple[str, ...] = ()
    shown_hints: int = 0

    @property
    def ok(self) -> bool:
        return self.verdict.ok

    def text(self) -> str:
        """Plain text, for a terminal and for readers without HTML."""
        v = self.verdict
        lines = [
            f"{v.exercise}: {WORDS.get(v.outcome, v.outcome.value)}"
            + (f", {v.total} of {v.total} cases" if v.ok else "")
        ]
        if v.failure and v.outcome is not Outcome.NOT_ATTEMPTED:
            lines += [f"  {name:5s} {value}" for name, value in _rows(v.failure)]
            lines += [f"        {line}" for line in v.failure.error_lines.splitlines()]
        if v.diagnosis:
            lines.append(f"  {_reading(v.diagnosis)}")
        lines += [f"  Note: {note}" for note in v.notes]
        lines += [f"  Hint {n + 1}: {hint}" for n, hint in enumerate(self.hints[: self.shown_hints])]
        if not v.ok and self.shown_hints < len(self.hints):
            lines.append(
                f"  check({v.exercise}, hint={self.shown_hints + 1}) shows hint {self.shown_hints + 1} of {len(self.hints)}"
            )
        return "\n".join(lines)

    def html(self) -> str:
        """The card. Everything that came from the learner is escaped."""
        v = self.verdict
        colour = COLOURS.get(v.outcome, "#D55E00")
        head = f"{SIGNS.get(v.outcome, chr(0x2717))} {html.escape(v.exercise)}: {WORDS.get(v.outcome, v.outcome.value)}"
        count = f"{v.passed} of {v.total} cases" if v.total and v.outcome is not Outcome.NOT_ATTEMPTED else ""
        parts = [
            f'<div style="font-weight:600;color:{colour}">{head} <span style="font-weight:400;opacity:.75">{count}</span></div>'
        ]
        if v.failure and v.outcome is not Outcome.NOT_ATTEMPTED:
            rows = "".join(
                f'<tr><td style="text-align:left;vertical-align:top;padding:1px 10px 1px 0;opacity:.75">{name}</td>'
                f'<td style="text-align:left;font-family:monospace;white-space:pre-wrap">{html.escape(value)}</td></tr>'
                for name, value in _rows(v.failure)
            )
            parts.append(f'<table style="margin:4px 0;border:none;font-size:90%">{rows}</table>')
            if v.failure.error_lines:
                parts.append(f'<pre style="margin:2px 0;font-size:85%">{html.escape(v.failure.error_lines)}</pre>')
        if v.diagnosis:
            parts.append(
                f'<div style="margin:4px 0"><b>{html.escape(v.diagnosis.name)}.</b> {html.escape(v.diagnosis.says)}</div>'
            )
        parts += [f'<div style="margin:4px 0">Note: {html.escape(note)}</div>' for note in v.notes]
        if not v.ok:
            inner = ""
            for n in range(len(self.hints), 0, -1):
                is_open = " open" if n <= self.shown_hints else ""
                inner = (
                    f'<details{is_open} style="margin:2px 0 0 8px"><summary style="cursor:pointer">Hint {n} of {len(self.hints)}</summary>'
                    f"<div>{html.escape(self.hints[n - 1])}</div>{inner}</details>"
                )
            parts.append(inner)
        body = "".join(parts)
        return f'<div role="status" style="border-left:5px solid {colour};padding:6px 12px;margin:4px 0;max-width:60em">{body}</div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": self.text(), "text/html": self.html()}

    def __repr__(self) -> str:
        return self.text()


def _rows(failure: Failure) -> list[tuple[str, str]]:
    rows = [
        ("case", failure.label),
        ("call", failure.call),
        ("wrong", failure.message),
        ("got", failure.got),
        ("want", failure.want),
    ]
    return [(name, value) for name, value in rows if value]


def _reading(diagnosis: Diagnosis) -> str:
    return f"{diagnosis.name}. {diagnosis.says}"


def check(*functions: Any, hint: int = 0) -> Card:
    """Judges an answer here and now, and returns a card: passed, or the first case that fails and what the mistake looks like.

    Pass the function itself, or its name; an exercise of several functions takes any of them. `hint=1` also shows the first of three hints.

    >>> check(softmax, hint=1)  # doctest: +SKIP
    """
    caller = sys._getframe(1).f_globals
    card = _card(functions, caller, CHECK_SEED, hint)
    if not _in_notebook():
        print(card.text())
    return card


def grade(*functions: Any) -> None:
    """For the graded cell: asks fresh random questions and raises AssertionError with the card's text unless all are answered rightly."""
    caller = sys._getframe(1).f_globals
    card = _card(functions, caller, secrets.randbits(60), 0)
    if not card.ok:
        raise AssertionError(card.text())


def _card(functions: tuple, caller: dict[str, Any], seed: int, hint: int) -> Card:
    if not functions:
        raise ValueError("check got no function; write check(softmax), with the name of your function")
    first = functions[0]
    name = first if isinstance(first, str) else getattr(first, "__name__", None)
    if name is None:
        raise ValueError(
            f"check wants a function or its name, got {type(first).__name__}; write check(softmax), without calling it"
        )
    try:
        chapter, exercise = course.find(name)
    except ValueError as unknown:
        return Card(Verdict(exercise=name, outcome=Outcome.MISSING, notes=[str(unknown)]))
    namespace = dict(caller)
    for function in functions:
        if not isinstance(function, str):
            namespace = {**getattr(function, "__globals__", {}), **namespace, function.__name__: function}
    missing = [f for f in exercise.all_functions if f not in namespace]
    if missing:
        note = f"{', '.join(missing)} is not defined here yet; run the cell that defines it"
        return Card(Verdict(exercise=exercise.name, outcome=Outcome.MISSING, notes=[note]), exercise.hints, hint)
    verdict = _policy(exercise, namespace)
    if verdict is None:
        student = LocalStudent(namespace, guard=_guard(exercise))
        verdict = judge(chapter, exercise, student, seed)
        if not verdict.ok:
            verdict.notes += _used_and_wrong(chapter, exercise, namespace)
        verdict.notes += _helpers_elsewhere(chapter, exercise, namespace)
    _remember(chapter.slug, verdict)
    return Card(verdict, exercise.hints, hint)


def _guard(exercise: Exercise) -> Any:
    withheld = Withheld(exercise.forbids)
    return lambda: withheld


def _policy(exercise: Exercise, namespace: dict[str, Any]) -> Verdict | None:
    for name in exercise.all_functions:
        try:
            source = textwrap.dedent(inspect.getsource(inspect.unwrap(namespace[name])))
        except (OSError, TypeError):
            continue
        if uses := scan(source, exercise.forbids):
            return Verdict(exercise=exercise.name, outcome=Outcome.POLICY, notes=[f"{u}." for u in uses[:3]])
    return None


def _used_and_wrong(chapter: course.Chapter, exercise: Exercise, namespace: dict[str, Any]) -> list[str]:
    notes = []
    for name in exercise.uses:
        used = chapter.exercises[name]
        if all(f in namespace for f in used.all_functions):
            verdict = judge(chapter, used, LocalStudent(namespace), CHECK_SEED, diagnose=False, stop_early=True)
            if not verdict.ok:
                notes.append(
                    f"{exercise.name} may use {name}, and yours does not pass its own check yet. Mend that one first."
                )
    return notes


def _helpers_elsewhere(chapter: course.Chapter, exercise: Exercise, namespace: dict[str, Any]) -> list[str]:
    """A note on functions that the answer takes from another cell of the notebook: grading would not find them."""
    known = {f for e in chapter.exercises.values() for f in e.all_functions} | set(dir(builtins))
    found: set[str] = set()
    for name in exercise.all_functions:
        code = getattr(namespace[name], "__code__", None)
        for used in _names(code) - known if code else ():
            helper = namespace.get(used)
            if (
                isinstance(helper, types.FunctionType)
                and helper.__module__ == "__main__"
                and helper.__code__.co_filename != code.co_filename
            ):
                found.add(used)
    text = ", ".join(sorted(found))
    return (
        [f"{text} is defined in another cell. Grading takes only this exercise's cell: move it there."] if found else []
    )


def _names(code: types.CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*(_names(c) for c in inner))


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return bool(shell and shell.get_ipython() is not None)


def progress_file() -> Path | None:
    """Where progress is kept: in the learner's own folder when the notebook lives there, else in the user's state folder.

    None while notebooks are built, tested or graded, so that nothing is written then.
    """
    if os.environ.get("NBGRADER_EXECUTION") or os.environ.get("LLM_COURSE_NO_PROGRESS"):
        return None
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / ".state.json").is_file():
            return folder / ".progress.json"
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "llm-principles" / "progress.json"


def _read_progress() -> dict[str, dict[str, Any]]:
    path = progress_file()
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _remember(slug: str, verdict: Verdict) -> None:
    path = progress_file()
    if path is None or verdict.outcome is Outcome.MISSING:
        return
    data = _read_progress()
    chapter = data.setdefault(slug, {})
    before = chapter.get(verdict.exercise, {})
    chapter[verdict.exercise] = {
        "passed": verdict.ok or before.get("passed", False),
        "attempts": before.get("attempts", 0) + 1,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{hashlib.sha256(secrets.token_bytes(8)).hexdigest()[:8]}")
        temporary.write_text(json.dumps(data, indent=1, sort_keys=True), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        return  # a read-only home must not cost the learner the answer


@dataclass
class Progress:
    """What `progress()` returns: by chapter, how many exercises pass and which come next."""

    chapters: dict[str, tuple[list[str], list[str]]]
    """(passed, not yet passed) exercise names by chapter."""

    def text(self) -> str:
        lines = []
        for slug, (done, open_) in self.chapters.items():
            following = f"next: {open_[0]}" if open_ else "complete"
            lines.append(
                f"{slug:24s} {_bar(len(done), len(done) + len(open_))} {len(done):2d} of {len(done) + len(open_)}  {following}"
            )
        return "\n".join(lines) or "no chapters yet"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(slug)}</td><td><meter min='0' max='{len(done) + len(open_)}' value='{len(done)}'></meter></td>"
            f"<td>{len(done)} of {len(done) + len(open_)}</td><td style='text-align:left'>{html.escape('next: ' + open_[0] if open_ else 'complete')}</td></tr>"
            for slug, (done, open_) in self.chapters.items()
        )
        return {
            "text/plain": self.text(),
            "text/html": f"<table><tr><th>chapter</th><th></th><th>passed</th><th></th></tr>{rows}</table>",
        }

    def __repr__(self) -> str:
        return self.text()


def _bar(done: int, total: int, width: int = 12) -> str:
    filled = round(width * done / total) if total else 0
    return "[" + "#" * filled + "." * (width - filled) + "]"


def progress() -> Progress:
    """What you have passed so far, by chapter. Kept in one local file on this machine (`progress_file`)."""
    data = _read_progress()
    chapters = {}
    for slug in course.slugs():
        names = list(course.load(slug).exercises)
        done = [n for n in names if data.get(slug, {}).get(n, {}).get("passed")]
        chapters[slug] = (done, [n for n in names if n not in done])
    shown = Progress(chapters)
    if not _in_notebook():
        print(shown.text())
    return shown
