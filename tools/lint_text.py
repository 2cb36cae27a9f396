"""Rules on what people write in any chapter text, and on lessons: read as text and syntax trees, never executed."""

from __future__ import annotations

import ast
import io
import re
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.chapter import CODE_ROOT, BuildError, Cell, parse_cells, read_title

MAX_LESSON_LINES = 750
NETWORK_MODULES = (
    "aiohttp",
    "ftplib",
    "http.client",
    "httpx",
    "huggingface_hub",
    "requests",
    "socket",
    "urllib.request",
    "urllib3",
    "wget",
)
RULES = {
    "title": "a lesson opens with `# NN Title` and `*Time: 45 minutes. Builds on: ...*`",
    "lesson-length": f"a lesson's source has at most {MAX_LESSON_LINES} lines",
    "parameters": 'a lesson has one cell tagged "parameters" that sets SCALE = "quick"',
    "assert-true": "nothing asserts a constant",
    "bare-except": "every except names its exception",
    "stderr": "nothing writes to stderr",
    "ignore-output": "nbval-ignore-output marks only cells that show times, devices or progress",
    "network": "nothing imports what reaches for the network",
    "machine-path": "no text holds a path of one machine",
    "magic": "cells are plain Python, without % and ! commands",
    "alt-text": "every picture has alternative text",
    "decoration": "no emoji in headings and comments, no banners",
    "claims": "every claim of the chapter is recorded exactly once, and every id exists",
    "typed-verdict": "a verdict is computed by the cell, not typed in",
}
_IGNORE = "nbval-ignore-output"
_CAN_CHANGE = re.compile(
    r"perf_counter|process_time|timeit|\btime\.|time_|_time|measure|bench|seconds|_s\b|device|cuda|platform|cpu|progress\(|psutil"
)
_NBVAL_COMMENT = re.compile(r"#\s*(NBVAL_\w+|PYTEST_VALIDATE_\w+)")
_CLAIM = re.compile(r"C\d\d\.\d\d")
_ROOTS = r"(?:home|Users|root|tmp|var|opt|mnt|srv|private|scratch|Volumes)"
_PATH = re.compile(rf"(?<![\w.:/<~-])/{_ROOTS}/[\w.+-]+|\b[A-Z]:\\\w")
_EMOJI = re.compile("[\U0001f300-\U0001faff\U0001f000-\U0001f02f\u2600-\u27bf\u2b50\u2b55\ufe0f]")
_BANNER = re.compile(r"^\s*#?\s*([#=*~+\-_\u2500-\u257f])\1{9,}")
_IMAGE = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>", re.IGNORECASE)


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    rule: str
    message: str


def lesson(cells: list[Cell], path: Path) -> list[Finding]:
    """The findings in a lesson's cells."""
    return list(_lesson(cells, path)) + list(everywhere(cells, path))


def across(lessons: list[tuple[Path, str]]) -> list[Finding]:
    """Claims recorded in two lessons."""
    seen: dict[str, Path] = {}
    found = []
    for path, _ in lessons:
        if not path.is_file():
            continue
        for name, line in claim_calls(path):
            if name in seen and seen[name] != path:
                found.append(
                    Finding(
                        path, line, "claims", f"{name} is recorded in {seen[name].parent.name} too; keep one of them"
                    )
                )
            seen.setdefault(name, path)
    return found


def claim_calls(path: Path) -> list[tuple[str, int]]:
    """Claim ids that a lesson's code hands to `judge` or `record`, with their lines."""
    try:
        cells = parse_cells(path.read_text(encoding="utf-8"), path)
    except BuildError:
        return []
    return [
        (name, cell.line + line) for cell in cells if cell.cell_type == "code" for name, line, _ in _claims_in(cell)
    ]


def _lesson(cells: list[Cell], path: Path) -> Iterator[Finding]:
    try:
        title = read_title(cells, path)
        if title.minutes is None:
            yield Finding(
                path,
                cells[0].line,
                "title",
                "add the line `*Time: 45 minutes. Builds on: 02_attention_scaling.*` below the title",
            )
    except BuildError as error:
        yield Finding(path, error.line, "title", error.message)
    lines = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
    if lines > MAX_LESSON_LINES:
        yield Finding(
            path, 1, "lesson-length", f"it has {lines} lines, want at most {MAX_LESSON_LINES}; move code into llmcore"
        )
    marked = [cell for cell in cells if "parameters" in cell.tags]
    if len(marked) != 1 or not re.search(r'^SCALE = "quick"', marked[0].source, re.MULTILINE):
        line = marked[0].line if marked else 1
        yield Finding(path, line, "parameters", 'give one cell the tag "parameters" and let it set SCALE = "quick"')
    yield from _claims(cells, path)


def _claims(cells: list[Cell], path: Path) -> Iterator[Finding]:
    from llmcore.claims import CLAIMS

    number = path.parent.name[:2]
    seen: dict[str, int] = {}
    for cell in cells:
        for name, offset, typed in _claims_in(cell) if cell.cell_type == "code" else ():
            line = cell.line + offset
            if name not in CLAIMS:
                yield Finding(
                    path, line, "claims", f"no claim has the id {name}; the ids are the keys of llmcore.claims.CLAIMS"
                )
            elif name in seen:
                yield Finding(path, line, "claims", f"{name} is recorded in line {seen[name]} too; keep one of them")
            seen.setdefault(name, line)
            if typed:
                yield Finding(
                    path,
                    line,
                    "typed-verdict",
                    f"the verdict of {name} is typed in; derive it with claims.judge(..., confirmed=...)",
                )
    for name in CLAIMS:
        if name[1:3] == number and name not in seen:
            yield Finding(path, 1, "claims", f"{name} is not recorded; test it in a cell: {CLAIMS[name].text[:70]}")


def _claims_in(cell: Cell) -> Iterator[tuple[str, int, bool]]:
    """(id, line in the cell, whether the verdict is a constant) of each claim that the cell records."""
    tree = tree_of(cell)
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.Call) or called(node) not in ("judge", "record"):
            continue
        keywords = {k.arg: k.value for k in node.keywords}
        first = node.args[0] if node.args else keywords.get("claim_id")
        if isinstance(first, ast.Constant) and isinstance(first.value, str) and _CLAIM.fullmatch(first.value):
            typed = isinstance(keywords.get("verdict"), ast.Constant) or isinstance(
                keywords.get("confirmed"), ast.Constant
            )
            yield first.value, first.lineno, typed


def everywhere(cells: list[Cell], path: Path) -> Iterator[Finding]:
    """The findings of the rules that hold for lessons and exercises alike."""
    for cell in cells:
        if cell.cell_type == "markdown":
            yield from _markdown(cell, path)
            continue
        yield from _tags(cell, path)
        tree = tree_of(cell)
        if tree is None:
            line = next((n for n, text in enumerate(cell.source.splitlines(), 1) if re.match(r"\s*[%!]", text)), 1)
            yield Finding(
                path,
                cell.line + line,
                "magic",
                "the cell is no plain Python; write what % and ! do with Python, or mend the syntax",
            )
            continue
        yield from _statements(cell, tree, path)
        yield from _comments(cell, path)


def _markdown(cell: Cell, path: Path) -> Iterator[Finding]:
    for number, text in enumerate(cell.source.splitlines(), 1):
        if _IMAGE.search(text):
            yield Finding(
                path, cell.line + number, "alt-text", "the picture has no alternative text; say in words what it shows"
            )
        if re.match(r"\s*(#+|[-*] )", text) and _EMOJI.match(text.lstrip("#-* \t")):
            yield Finding(path, cell.line + number, "decoration", "an emoji decorates the line; let the words speak")
        yield from _paths(text, cell.line + number, path)


def _tags(cell: Cell, path: Path) -> Iterator[Finding]:
    for tag in cell.tags:
        if tag == _IGNORE and not _CAN_CHANGE.search(cell.source):
            yield Finding(
                path,
                cell.line,
                "ignore-output",
                "its output can repeat, so compare it: drop the tag nbval-ignore-output",
            )
        elif (tag.startswith("nbval-") and tag != _IGNORE) or tag in ("raises-exception", "skip-execution"):
            yield Finding(path, cell.line, "ignore-output", f"the tag {tag} hides a cell from the tests; drop it")
    for number, text in enumerate(cell.source.splitlines(), 1):
        if found := _NBVAL_COMMENT.search(text):
            yield Finding(
                path,
                cell.line + number,
                "ignore-output",
                f"the comment {found[1]} hides a cell from the tests; drop it",
            )


def _statements(cell: Cell, tree: ast.Module, path: Path) -> Iterator[Finding]:
    for node in ast.walk(tree):
        line = cell.line + getattr(node, "lineno", 0)
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield Finding(
                path, line, "bare-except", "a bare except hides every mistake; name the exception that you expect"
            )
        elif isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant):
            yield Finding(path, line, "assert-true", "the assertion tests nothing; assert what must hold, or remove it")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from _imports(node, line, path)
        elif isinstance(node, ast.Call) and dotted(node.func) in ("warnings.warn", "sys.stderr.write"):
            yield Finding(
                path,
                line,
                "stderr",
                f"{dotted(node.func)} writes to stderr, which nbgrader scores 0; print or raise instead",
            )
        elif isinstance(node, ast.keyword) and node.arg == "file" and dotted(node.value) == "sys.stderr":
            yield Finding(
                path, cell.line + node.value.lineno, "stderr", "stderr in a graded notebook scores 0; print to stdout"
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _paths(node.value, line, path)


def _imports(node: ast.Import | ast.ImportFrom, line: int, path: Path) -> Iterator[Finding]:
    names = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{name}" for name in names]
    for name in names:
        if any(name == module or name.startswith(f"{module}.") for module in NETWORK_MODULES):
            yield Finding(
                path,
                line,
                "network",
                f"{name} reaches for the network, which the course does without; use data that is at hand",
            )
        if name.split(".")[0] in ("tqdm", "logging"):
            yield Finding(
                path,
                line,
                "stderr",
                f"{name.split('.')[0]} writes to stderr, which fails the build; print a line instead",
            )


def _comments(cell: Cell, path: Path) -> Iterator[Finding]:
    for token in tokenize.generate_tokens(io.StringIO(cell.source + "\n").readline):
        if token.type != tokenize.COMMENT:
            continue
        line = cell.line + token.start[0]
        if _EMOJI.search(token.string):
            yield Finding(path, line, "decoration", "an emoji decorates the comment; let the words speak")
        if _BANNER.match(token.string):
            yield Finding(path, line, "decoration", "the comment is a banner; a Markdown heading says it better")
        yield from _paths(token.string, line, path)


def _paths(text: str, line: int, path: Path) -> Iterator[Finding]:
    if found := machine_path(text):
        yield Finding(
            path,
            line,
            "machine-path",
            f"{found!r} is a path of one machine; name files relative to the course, or tempfile",
        )


def machine_path(text: str) -> str | None:
    """The first path of one machine in `text`: below a home or temporary folder, or where this course or Python lies."""
    here = [str(CODE_ROOT), sys.prefix, str(Path.home()), tempfile.gettempdir()]
    for place in here:
        if len(place) > 4 and re.search(rf"(?<![\w.]){re.escape(place)}(?![\w-])", text):
            return place
    found = _PATH.search(text)
    return found[0] if found else None


def tree_of(cell: Cell) -> ast.Module | None:
    """The cell's syntax tree, or None when it is no plain Python."""
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return None


def dotted(node: ast.AST | None) -> str:
    """`a.b.c` for an attribute chain, or "" for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
