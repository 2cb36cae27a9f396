"""What an exercise forbids: found by reading the source, and withheld while the answer runs.

Reading cannot see every disguise and withholding cannot reach every builtin, so both are done, and official grading shows a person
what was found. This file imports only the standard library: it also stands inside the sandbox.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ALWAYS_FORBIDDEN = ("llmcore", "transformers", "tokenizers", "tiktoken", "sentencepiece", "rustbpe")
"""Packages that hold the answers to everything; no exercise may import them."""

# Names under which notebooks import the usual modules; imports in the source itself are added to these.
USUAL_ALIASES = {
    "torch": "torch",
    "F": "torch.nn.functional",
    "nn": "torch.nn",
    "np": "numpy",
    "numpy": "numpy",
    "math": "math",
}
VALUE_TYPES = {"str", "bytes", "bytearray", "list", "dict", "int", "float", "torch.Tensor", "numpy.ndarray"}


class Forbidden(RuntimeError):
    """Raised by a routine that is withheld while an exercise is judged."""


@dataclass(frozen=True)
class Use:
    """One place where a source uses something forbidden."""

    line: int
    name: str

    def __str__(self) -> str:
        return f"line {self.line} uses {self.name}, which is what this exercise asks you to write"


def scan(source: str, forbids: Sequence[str]) -> list[Use]:
    """Every use of a forbidden name in `source`, in line order; empty when the source does not parse.

    >>> scan("def f(x):\\n    return x.softmax(-1)", ["torch.Tensor.softmax"])
    [Use(line=2, name='torch.Tensor.softmax')]
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = (*forbids, *ALWAYS_FORBIDDEN)
    aliases = dict(USUAL_ALIASES)
    uses: set[Use] = set()

    def banned(dotted: str) -> str | None:
        return next((n for n in names if dotted == n or dotted.startswith(n + ".")), None)

    methods = {n.rpartition(".")[2]: n for n in names if n.rpartition(".")[0] in VALUE_TYPES}
    builtin_names = {n for n in names if "." not in n and hasattr(builtins, n)}
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                aliases[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
                if hit := banned(item.name):
                    uses.add(Use(node.lineno, hit))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for item in node.names:
                aliases[item.asname or item.name] = f"{node.module}.{item.name}"
                if hit := banned(node.module) or banned(f"{node.module}.{item.name}"):
                    uses.add(Use(node.lineno, hit))

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            dotted = _dotted(node, aliases)
            hit = banned(dotted) if dotted else None
            root = dotted.rpartition(".")[0] if dotted else ""
            if not hit and (not dotted or root in VALUE_TYPES):
                hit = methods.get(node.attr)
            if hit:
                uses.add(Use(node.lineno, hit))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in builtin_names - defined:
            uses.add(Use(node.lineno, node.id))
        elif isinstance(node, ast.Call) and (hit := _converts(node, names)):
            uses.add(Use(node.lineno, hit))
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"getattr", "__import__"}
        ):
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    hit = banned(argument.value) or next(
                        (n for n in names if n.rpartition(".")[2] == argument.value), None
                    )
                    if hit:
                        uses.add(Use(node.lineno, hit))
    return sorted(uses, key=lambda u: (u.line, u.name))


def _converts(node: ast.Call, names: Sequence[str]) -> str | None:
    """`bytes(text, "utf-8")` and `str(data, "utf-8")` are encode and decode by other names."""
    with_codec = len(node.args) >= 2 or any(k.arg in ("encoding", "errors") for k in node.keywords)
    if not with_codec:
        return None
    called = node.func.id if isinstance(node.func, ast.Name) else ""
    if called in ("bytes", "bytearray") and "str.encode" in names:
        return "str.encode"
    return "bytes.decode" if called == "str" and "bytes.decode" in names else None


def _dotted(node: ast.expr, aliases: dict[str, str]) -> str | None:
    """`F.softmax` as 'torch.nn.functional.softmax'; None when the root is no imported name (a method of a value)."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    root = aliases.get(node.id) or (node.id if node.id in VALUE_TYPES else None)
    return ".".join([root, *reversed(parts)]) if root else None


class Withheld:
    """A context manager: while it lasts, the forbidden names raise `Forbidden` and the forbidden packages cannot be imported.

    It may be entered again and again; what to replace is looked up once. Methods of builtin types (`str.encode`) cannot be
    replaced; reading finds those.
    """

    def __init__(self, forbids: Sequence[str]) -> None:
        self.patches: list[tuple[Any, str, Any, bool, Any]] = []
        for name in forbids:
            owner, attribute = _owner(name)
            if owner is None or (isinstance(owner, type) and owner.__module__ == "builtins"):
                continue
            before = getattr(owner, attribute, None)
            if callable(before):  # a namespace such as torch.ops is torch's own machinery: reading finds its use
                self.patches.append((owner, attribute, before, attribute in vars(owner), _refusal(name, before)))
        # Only packages that are loaded have parts to hide; in a fresh fork, looking at every module's name would copy its page.
        roots = tuple(f"{p}." for p in ALWAYS_FORBIDDEN if p in sys.modules)
        self.modules = [*ALWAYS_FORBIDDEN, *(m for m in (sys.modules if roots else ()) if m.startswith(roots))]
        self.hidden: dict[str, Any] = {}

    def __enter__(self) -> None:
        for owner, attribute, _, _, refusal in self.patches:
            setattr(owner, attribute, refusal)
        self.hidden = {m: sys.modules.get(m) for m in self.modules}
        for module in self.modules:
            sys.modules[module] = None  # type: ignore[assignment]

    def __exit__(self, *error: object) -> None:
        for owner, attribute, before, own, _ in reversed(self.patches):
            if own:
                setattr(owner, attribute, before)
            else:
                delattr(owner, attribute)
        for module, before in self.hidden.items():
            if before is None:
                sys.modules.pop(module, None)
            else:
                sys.modules[module] = before


def withhold(forbids: Sequence[str]) -> Withheld:
    """`Withheld(forbids)`, in the words of a caller: `with withhold(["torch.softmax"]): ...`."""
    return Withheld(forbids)


@functools.cache
def _owner(name: str) -> tuple[Any, str]:
    """The object that holds the last part of a dotted name, or (None, ...) when it is not there."""
    path, _, attribute = name.rpartition(".")
    parts = path.split(".") if path else []
    for cut in range(len(parts), 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            owner = getattr(owner, part, None)
        return owner, attribute
    return None, attribute


def _refusal(name: str, before: Any) -> Any:
    if isinstance(before, type):  # a class stays a class, so that isinstance and subclassing elsewhere go on working
        return type(before.__name__, (before,), {"__init__": lambda self, *a, **k: _refuse(name)})
    return lambda *args, **kwargs: _refuse(name)


def _refuse(name: str) -> None:
    raise Forbidden(f"{name} is withheld here: writing it is the exercise")
