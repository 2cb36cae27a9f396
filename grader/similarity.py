"""Answers that resemble each other more than the task explains. A list for a person to look at, never a verdict.

    llmcourse similar 03_norms

Sources are compared as syntax trees: names of variables, comments, docstrings and layout do not count, so renaming hides nothing. What
an answer shares with the stub, the worked solution, the known variants and mistakes, or with many others of the class, is the task's
own and is taken away first. An answer of which too little is left then tells nothing and is left out.
"""

from __future__ import annotations

import ast
import hashlib
import io
import itertools
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grader import course, exchange, grading
from grader.intake import read_submission
from grader.policy import USUAL_ALIASES

WINDOW = 9
"""Tokens of a fragment: long enough that two people seldom write it alike by chance."""
TOO_SHORT = 24
"""Fragments of its own below which an answer says nothing."""
COMMON_SHARE, COMMON_LEAST = 0.2, 4
"""A fragment in more than this share of the class, and in at least so many answers, is the task's own."""
THRESHOLD = 0.6
LARGEST_SOURCE = 60_000


@dataclass(frozen=True)
class Pair:
    """Two answers to one exercise that share more than the task explains."""

    exercise: str
    one: str
    other: str
    share: float
    """Shared fragments over the fragments of the shorter answer, both without what is the task's own; 0 to 1."""
    shared: int
    """Number of shared fragments."""
    same_comments: tuple[str, ...]
    """Comments that both hold word for word and the stub does not."""


def similar(root: Path, slug: str, threshold: float = THRESHOLD) -> list[Pair]:
    """Pairs of submissions of an assignment, most alike first.

    Raises: ValueError for an unknown assignment or a threshold outside 0 to 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold is a share above 0 and at most 1, got {threshold:g}")
    chapter = course.load(slug, root)
    manifest = grading.manifest(chapter)
    answers: dict[str, dict[str, str]] = {name: {} for name in chapter.exercises}
    for student in exchange.submitted(root, slug):
        cells = read_submission(root / "submitted" / student / slug / f"{slug}.ipynb", manifest).cells
        for name, source in cells.items():
            answers[name][student] = source
    stubs = grading.released(root, slug) if (root / "release" / slug).is_dir() else {}
    pairs = []
    for name, exercise in chapter.exercises.items():
        ours = [chapter.solutions[name], stubs.get(name, ""), *chapter.given]
        ours += [chapter.source_of(exercise, item) for item in (*exercise.variants, *exercise.misconceptions)]
        pairs += compare(name, answers[name], ours, threshold)
    return sorted(pairs, key=lambda p: (-p.share, -p.shared, p.exercise, p.one))


def compare(exercise: str, answers: dict[str, str], ours: Iterable[str], threshold: float = THRESHOLD) -> list[Pair]:
    """Pairs among `answers` (source by student) whose share is at least `threshold`; what is in `ours` is the task's own."""
    ours = list(ours)
    known = set().union(*(fragments(source) for source in ours)) if ours else set()
    whole = {student: fragments(source) for student, source in answers.items()}
    counts = Counter(itertools.chain.from_iterable(whole.values()))
    many = max(COMMON_LEAST, COMMON_SHARE * len(answers))
    own = {s: {f for f in found - known if counts[f] <= many} for s, found in whole.items()}
    own = {student: found for student, found in own.items() if len(found) >= TOO_SHORT}
    holders: dict[int, list[str]] = {}
    for student in sorted(own):
        for fragment in own[student]:
            holders.setdefault(fragment, []).append(student)
    shared = Counter(pair for names in holders.values() for pair in itertools.combinations(names, 2))
    said = set().union(*(comments(source) for source in ours)) if ours else set()
    pairs = []
    for (one, other), count in shared.items():
        share = count / min(len(own[one]), len(own[other]))
        if share >= threshold:
            same = tuple(sorted((comments(answers[one]) & comments(answers[other])) - said))
            pairs.append(Pair(exercise, one, other, share, count, same))
    return sorted(pairs, key=lambda p: (-p.share, -p.shared, p.one, p.other))


def fragments(source: str) -> set[int]:
    """Sums of every run of `WINDOW` tokens of the normalised syntax tree; empty for what is no Python.

    >>> fragments("def f(x):\\n    return x + 1") == fragments("def f(value):  # mine\\n    'Adds.'\\n    return value+1")
    True
    """
    tokens = list(normalised(source))
    runs = (" ".join(tokens[n : n + WINDOW]) for n in range(len(tokens) - WINDOW + 1))
    return {int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in runs}


def normalised(source: str) -> Iterator[str]:
    """The syntax tree as words, in source order: node kinds, attributes, constants and names of the outside world.

    Names that the source itself binds (arguments, variables, functions, imports) all become the same word.
    """
    if len(source) > LARGEST_SOURCE:
        return
    try:
        tree = ast.parse(source)
        bound = _bound(tree)
        yield from _words(tree, bound)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return


def _bound(tree: ast.AST) -> set[str]:
    names = set(USUAL_ALIASES)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
            names.add(node.name or "")
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def _words(node: ast.AST, bound: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom | ast.alias):
        return
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return  # a docstring or a remark
    if isinstance(node, ast.Name):
        yield "name" if node.id in bound else node.id
        return
    if isinstance(node, ast.arg):  # annotations do not count
        yield "argument"
        return
    if isinstance(node, ast.Constant):
        yield "text" if isinstance(node.value, str | bytes) else repr(node.value)[:40]
        return
    if isinstance(node, ast.Load | ast.Store | ast.Del):
        return
    if isinstance(node, ast.AnnAssign):  # x: int = 1 is x = 1
        yield "Assign"
        children: Iterable[ast.AST] = [node.target, *([node.value] if node.value else [])]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield "function"
        children = [node.args, *node.body]
    else:
        yield type(node).__name__
        children = ast.iter_child_nodes(node)
    if isinstance(node, ast.Attribute):
        yield node.attr
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg
    for child in children:
        yield from _words(child, bound)
    if isinstance(node, ast.stmt):
        yield ";"


def comments(source: str) -> set[str]:
    """The comments of a source, one by one, without their marks; short ones say nothing and are left out."""
    found: set[str] = set()
    try:
        for token in tokenize.generate_tokens(io.StringIO(source[:LARGEST_SOURCE]).readline):
            if token.type == tokenize.COMMENT and len(text := token.string.lstrip("#! ").strip()) >= 12:
                found.add(text[:200])
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass
    return found
