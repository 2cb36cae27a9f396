"""Rules on `exercises.py`: that each exercise can be understood, checked and graded, and gives nothing away."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tools.chapter import BuildError, Cell, read_title
from tools.lint_text import Finding, called, dotted, everywhere, tree_of

RULES = {
    "exercise-order": "each exercise is Markdown that asks, exercise, check, judge, in this order",
    "docstring": "an exercise's docstring names every parameter, shapes of tensors, and what it raises",
    "stub-answer": "what is left of an exercise without its solution does not contain the answer",
    "check-cell": "a check cell is `check(NAME)` and a judge cell `grade(NAME)`",
    "false-result": "a graded cell does not end in a bare False or another constant",
}
_REGION = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*$")
_SHAPE = re.compile(r"\([^()]*[,.][^()]*\)|\bshape|\(\w+,?\)|scalar", re.IGNORECASE)


def exercises(cells: list[Cell], path: Path) -> list[Finding]:
    """The findings in the cells of an `exercises.py`."""
    found = list(everywhere(cells, path))
    try:
        read_title(cells, path)
    except BuildError as error:
        found.append(Finding(path, error.line, "title", error.message))
    given = "\n".join(cell.source for cell in cells if cell.key == "given")
    for index, cell in enumerate(cells):
        if cell.key == "exercise":
            found += _exercise(cells, index, path)
        elif cell.key in ("check", "judge"):
            found += _call_cell(cell, path)
        if cell.key == "exercise" and re.search(rf"^(def|class) {cell.name}\b", given, re.MULTILINE):
            found.append(Finding(path, cell.line, "stub-answer", f"a given cell defines {cell.name}; remove it there"))
    return found


def _exercise(cells: list[Cell], index: int, path: Path) -> Iterator[Finding]:
    cell = cells[index]
    before = cells[index - 1] if index else None
    after = [(c.key, c.name) for c in cells[index + 1 : index + 3]]
    if (
        before is None
        or before.cell_type != "markdown"
        or before.key
        or after != [("check", cell.name), ("judge", cell.name)]
    ):
        yield Finding(
            path,
            cell.line,
            "exercise-order",
            f"put Markdown that asks before {cell.name}, then its check and its judge cell right after it",
        )
    tree = tree_of(cell)
    if tree is None:
        return
    function = next(
        (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == cell.name), None
    )
    if function is not None:
        yield from _docstring(cell, function, path)
    yield from _stub(cell, before, path)


def _docstring(cell: Cell, node: ast.FunctionDef | ast.ClassDef, path: Path) -> Iterator[Finding]:
    text = ast.get_docstring(node) or ""
    line = cell.line + node.lineno
    missing = []
    if not text.split("\n\n")[0].strip().endswith((".", ":")):
        missing.append("a first sentence that says what comes back")
    if isinstance(node, ast.FunctionDef):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        missing += [
            f"the parameter {a.arg}" for a in arguments if a.arg != "self" and not re.search(rf"\b{a.arg}\b", text)
        ]
        tensors = any(a.annotation is not None and "Tensor" in ast.unparse(a.annotation) for a in arguments)
        if tensors and not _SHAPE.search(text):
            missing.append("the shapes of its tensors")
    raised = {
        dotted(n.exc.func if isinstance(n.exc, ast.Call) else n.exc)
        for n in ast.walk(node)
        if isinstance(n, ast.Raise) and n.exc
    }
    missing += [f"that it raises {name}" for name in sorted(raised - {"", "NotImplementedError"}) if name not in text]
    if missing:
        yield Finding(path, line, "docstring", f"the docstring of {node.name} lacks {', '.join(missing)}; add it")


def _stub(cell: Cell, before: Cell | None, path: Path) -> Iterator[Finding]:
    lines = cell.source.splitlines()
    marks = [(n, match[1]) for n, text in enumerate(lines) if (match := _REGION.match(text))]
    if not marks or [word for _, word in marks] != ["BEGIN", "END"] * (len(marks) // 2):
        yield Finding(
            path,
            cell.line,
            "stub-answer",
            f"put the answer of {cell.name} between ### BEGIN SOLUTION and ### END SOLUTION",
        )
        return
    inside: set[int] = set()
    for (start, _), (end, _) in zip(marks[::2], marks[1::2]):
        inside |= set(range(start, end + 1))
    tree = tree_of(cell)
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.FunctionDef):
            continue
        left = [n for n in node.body if n.lineno - 1 not in inside and not _harmless(n)]
        if left:
            yield Finding(
                path,
                cell.line + left[0].lineno,
                "stub-answer",
                f"this line of {node.name} stays in the stub; move it into the solution",
            )
    shown = (
        "\n".join(text for n, text in enumerate(lines) if n not in inside) + "\n" + (before.source if before else "")
    )
    shown = re.sub(r"\s+", "", shown)
    for number in sorted(inside):
        text = lines[number].strip()
        if (
            len(text) >= 24
            and not text.startswith(("#", "def ", "raise ", "return self", '"'))
            and re.sub(r"\s+", "", text) in shown
        ):
            yield Finding(
                path,
                cell.line + number + 1,
                "stub-answer",
                f"the text that the learner sees holds this line of the answer: {text[:60]}",
            )


def _harmless(node: ast.stmt) -> bool:
    """A docstring, a `...`, `pass`, or a definition inside (whose own body is looked at for itself)."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Pass | ast.FunctionDef | ast.ClassDef | ast.Global | ast.Nonlocal)


def _call_cell(cell: Cell, path: Path) -> Iterator[Finding]:
    tree = tree_of(cell)
    wanted = "check" if cell.key == "check" else "grade"
    last = tree.body[-1] if tree and tree.body else None
    if isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant):
        yield Finding(
            path,
            cell.line + last.lineno,
            "false-result",
            f"the cell ends in {last.value.value!r}, which nbgrader scores; end it with {wanted}({cell.name})",
        )
    call = last.value if isinstance(last, ast.Expr) else None
    if tree is None or len(tree.body) != 1 or not isinstance(call, ast.Call) or called(call) != wanted:
        yield Finding(path, cell.line, "check-cell", f"write {wanted}({cell.name}) and nothing else")
