"""What a verdict depends on besides the answer: a hash for each exercise, so that an edit to one costs no other its results.

`checks.py` is read, not run: of each exercise the hash covers its `Exercise(...)` and every top-level name of the file that it
reaches, the chapter's given cells, the worked solutions, the packages of this project that the checks import, the judging part of the
grader, and the versions of Python, NumPy and torch. Comments and layout do not count. A file that cannot be taken apart counts as a whole.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy
import torch

from grader.course import Chapter

JUDGING = (
    *("exercise", "wire", "policy", "calling", "compare", "course", "inner", "runner", "pipe", "sandbox", "intake"),
    *("judge", "worker", "task"),
)
"""Modules of the grader that decide a verdict or its wording."""
OUR_PACKAGES = ("llmcore",)
"""Packages of the project that checks may import; a change there counts."""
_DYNAMIC = ("globals(", "exec(", "eval(", "__import__", "import_module")


def _sha(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


@functools.cache
def environment() -> str:
    """A hash of the grader's judging code and of the versions of Python, NumPy and torch.

    It must be the same wherever submissions of one run are judged.
    """
    here = Path(__file__).parent
    versions = json.dumps([sys.version.split()[0], numpy.__version__, str(torch.__version__)])
    return _sha(versions, *(part for name in JUDGING for part in (name, (here / f"{name}.py").read_bytes())))


@functools.cache
def _package(name: str) -> str:
    """A hash of every source of an installed package, or of its absence."""
    spec = importlib.util.find_spec(name)
    folders = [Path(f) for f in (spec.submodule_search_locations or ())] if spec else []
    files = [(p.relative_to(f).as_posix(), p.read_bytes()) for f in folders for p in sorted(f.rglob("*.py"))]
    return _sha(name, *(part for file in files for part in file))


def exercise_versions(chapter: Chapter) -> dict[str, str]:
    """For each exercise, a hash of everything that decides its verdict besides the answers."""
    text = (chapter.folder / "checks.py").read_text(encoding="utf-8")
    parts = _parts(text, tuple(chapter.exercises))
    shared = [environment(), json.dumps(chapter.given)]
    made = {}
    for name in chapter.exercises:
        dumped, packages = parts[name]
        made[name] = _sha(*shared, dumped, chapter.solutions[name], *(_package(p) for p in packages))
    return made


def course_version(chapter: Chapter, versions: dict[str, str] | None = None) -> str:
    """A hash of everything that decides the scores of an assignment besides the answers, points among it.

    `versions` are its `exercise_versions` where the caller has them.
    """
    worth = json.dumps([chapter.points, chapter.manual], sort_keys=True)
    found = versions or exercise_versions(chapter)
    return _sha(worth, *(part for item in sorted(found.items()) for part in item))


@functools.lru_cache(maxsize=32)
def _parts(text: str, exercises: tuple[str, ...]) -> dict[str, tuple[str, list[str]]]:
    """(the syntax that an exercise reaches, packages of ours that it reaches) by exercise; the whole file where that cannot be told."""
    tree = ast.parse(text)
    nodes = _exercise_nodes(tree)
    if set(exercises) - set(nodes) or any(word in text for word in _DYNAMIC):
        whole = (ast.dump(tree), _ours(n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)))
        return dict.fromkeys(exercises, whole)
    by_name: dict[str, list[ast.stmt]] = {}
    always: list[ast.stmt] = []
    for statement in _one_name_at_a_time(tree.body):
        bound = _binds(statement)
        if bound is None:
            always.append(statement)
        elif "EXERCISES" not in bound:
            for name in bound:
                by_name.setdefault(name, []).append(statement)
    seen: dict[int, set[str]] = {}
    dumps: dict[int, str] = {}
    return {name: _reach(nodes[name], by_name, always, seen, dumps) for name in exercises}


def _one_name_at_a_time(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, imports taken apart, so that one more imported name changes only what uses it."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom):
            yield from (ast.ImportFrom(statement.module, [alias], statement.level) for alias in statement.names)
        elif isinstance(statement, ast.Import):
            yield from (ast.Import([alias]) for alias in statement.names)
        else:
            yield statement


def _reach(
    start: ast.AST,
    by_name: dict[str, list[ast.stmt]],
    always: list[ast.stmt],
    seen: dict[int, set[str]],
    dumps: dict[int, str],
) -> tuple[str, list[str]]:
    """What `start` reaches, by way of the top-level names it mentions; `seen` and `dumps` keep what was found out about a node."""
    found: dict[int, ast.AST] = {}
    waiting: list[ast.AST] = [start, *always]
    while waiting:
        node = waiting.pop()
        if id(node) in found:
            continue
        found[id(node)] = node
        waiting += [statement for name in _names(node, seen) for statement in by_name.get(name, ())]
    imports = [n for n in found.values() if isinstance(n, ast.Import | ast.ImportFrom)]
    return "\n".join(sorted(_dump(node, dumps) for node in found.values())), _ours(imports)


def _names(node: ast.AST, seen: dict[int, set[str]]) -> set[str]:
    if id(node) not in seen:
        seen[id(node)] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return seen[id(node)]


def _dump(node: ast.AST, dumps: dict[int, str]) -> str:
    if id(node) not in dumps:
        dumps[id(node)] = ast.dump(node)
    return dumps[id(node)]


def _ours(imports: Iterable[ast.AST]) -> list[str]:
    named: set[str] = set()
    for node in imports:
        if isinstance(node, ast.Import):
            named |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            named.add(node.module.split(".")[0])
    return sorted(named & set(OUR_PACKAGES))


def _binds(statement: ast.stmt) -> set[str] | None:
    """The names that a plain top-level statement binds; None for one that may do anything (a loop, a call)."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in statement.names}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    if isinstance(statement, ast.Assign):
        names = [n for target in statement.targets for n in ast.walk(target)]
        if all(isinstance(n, ast.Name | ast.Tuple | ast.List | ast.Store) for n in names):
            return {n.id for n in names if isinstance(n, ast.Name)}
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return set() if is_docstring else None


def _exercise_nodes(tree: ast.Module) -> dict[str, ast.AST]:
    """Each exercise's own `Exercise(...)` by its name: in the list EXERCISES, or assigned to a name that stands there."""
    assigned = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    listed = assigned.get("EXERCISES")
    nodes: dict[str, ast.AST] = {}
    for item in listed.elts if isinstance(listed, ast.List | ast.Tuple) else ():
        node = assigned.get(item.id) if isinstance(item, ast.Name) else item
        named = [k.value for k in node.keywords if k.arg == "name"] if isinstance(node, ast.Call) else []
        if len(named) == 1 and isinstance(named[0], ast.Constant) and isinstance(named[0].value, str):
            nodes[named[0].value] = node  # type: ignore[assignment]
    return nodes
