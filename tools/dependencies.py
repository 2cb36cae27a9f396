"""Which of the repository's own files a notebook's code rests on, and one hash of them.

Imports are followed through `llmcore` and `grader` by reading the syntax tree; nothing is imported. Lazily loading
packages are followed through the module names that their `__init__` holds as text. Not tracked: the interpreter, installed
packages, data files, and modules whose names are computed at run time.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("llmcore", "grader")


def digest(code: Iterable[str], root: Path, extra: Iterable[Path] = (), salt: str = "") -> str:
    """A hash of code cells, of the modules under `root` that they reach, and of `extra` files with what those reach."""
    texts = [*code]
    files = {path for path in extra if path.is_file()}
    reached = closure([*texts, *(path.read_text(encoding="utf-8") for path in sorted(files))], root)
    parts = [salt, *texts]
    for path in sorted(files | reached):
        parts += [path.name, path.read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()


def closure(texts: Iterable[str], root: Path) -> set[Path]:
    """The modules of `PACKAGES` under `root` that the texts import, and those that these import, and so on."""
    reached: set[Path] = set()
    waiting = [path for text in texts for name in _names(text, "") for path in _files(name, root)]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        waiting += [found for name in _names_in(path, root) for found in _files(name, root) if found not in reached]
    return reached


def _files(name: str, root: Path) -> list[Path]:
    """The files behind a dotted name such as `llmcore.figures.base.show`: each package's `__init__` and the module."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    found, folder = [], root
    for part in parts:
        module, package = folder / f"{part}.py", folder / part / "__init__.py"
        if package.is_file():
            found.append(package)
            folder = folder / part
        elif module.is_file():
            return [*found, module]
        else:
            break
    return found


def _names_in(path: Path, root: Path) -> list[str]:
    relative = path.relative_to(root).with_suffix("")
    package = ".".join(relative.parts[:-1])
    return _module_names(path.read_text(encoding="utf-8"), package, path.name == "__init__.py")


@functools.lru_cache(maxsize=4096)
def _module_names(text: str, package: str, is_package: bool) -> list[str]:
    names = [*_names(text, package)]
    if is_package:  # lazy packages name their modules as text: "grader.checking", ".base" or "base"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 80:
                word = node.value.strip(".")
                names += [word, f"{package}.{word}"]
    return names


def _names(text: str, package: str) -> Iterator[str]:
    """Dotted names that the code imports or reaches as attributes of what it imports."""
    try:
        tree = ast.parse(text)
    except SyntaxError:  # a cell with a magic; the kernel will judge it
        return
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
                bound[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).strip(".")
            for alias in node.names:
                yield f"{base}.{alias.name}"
                bound[alias.asname or alias.name] = f"{base}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain, inner = [node.attr], node.value
            while isinstance(inner, ast.Attribute):
                chain.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in bound:
                yield ".".join([bound[inner.id], *reversed(chain)])
