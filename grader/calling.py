"""One call of a learner's function, turned into an `Answer`. The same code runs in a notebook and inside the sandbox."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grader.exercise import Answer, Code

MAX_TEXT = 2_000


@dataclass
class Call:
    """One call that a learner's function is to answer."""

    function: str
    args: tuple
    kwargs: dict[str, Any]
    grad: Sequence[int | str] = ()
    """Arguments whose gradients are asked for."""
    cotangents: Sequence[Tensor] = ()
    encoded: Any = None
    """The call as it is sent to a sandbox, kept by the worker so that the next subject is not encoded for again."""

    @property
    def body(self) -> dict[str, Any]:
        return {
            "function": self.function,
            "args": tuple(self.args),
            "kwargs": self.kwargs,
            "grad": list(self.grad),
            "cotangents": list(self.cotangents),
        }


def copy_of(value: Any) -> Any:
    """A copy that shares nothing with `value`: tensors cloned with their strides, containers rebuilt, `Code` built.

    >>> copy_of([torch.zeros(2), {"a": (1, 2)}])
    [tensor([0., 0.]), {'a': (1, 2)}]
    """
    if isinstance(value, Code):
        return Code(value.source, tuple(copy_of(a) for a in value.args)).build()
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(copy_of(v) for v in value)
    if type(value) is dict:
        return {copy_of(k): copy_of(v) for k, v in value.items()}
    return value


def snapshot(value: Any) -> Any:
    """Like `copy_of`, for values on their way out: subclassed containers and tensors become plain ones, other objects stay."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(snapshot(v) for v in tuple.__iter__(value))
    if isinstance(value, list):
        return [snapshot(v) for v in list.__iter__(value)]
    if isinstance(value, dict):
        return {snapshot(k): snapshot(v) for k, v in dict.items(value)}
    return value


def float_tensors(value: Any) -> list[Tensor]:
    """Every floating tensor in nested containers, in order: what gradients flow from."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, list | tuple):
        return [t for v in value for t in float_tensors(v)]
    if isinstance(value, dict):
        return [t for v in value.values() for t in float_tensors(v)]
    return []


def error_name(error: BaseException) -> str:
    """The class and its bases up to Exception, nearest first, joined by ' < '."""
    return " < ".join(c.__name__ for c in type(error).__mro__ if c not in (object, BaseException))


def answer_of(
    function: Callable[..., Any],
    args: tuple,
    kwargs: dict[str, Any],
    grad: Sequence[int | str] = (),
    cotangents: Sequence[Tensor] = (),
    ours: Sequence[str] = (),
    quiet: bool = True,
    with_args: bool = True,
) -> Answer:
    """Calls `function` on arguments that are already its own copies, and says what came of it.

    Gradients are of sum(output * cotangent) over the floating outputs. `quiet` swallows prints; the sandbox
    counts them outside instead. `ours` lists file-name endings whose lines are left out of `error_lines`. `with_args` also
    notes the arguments as they are after the call.
    """
    wanted = [args[g] if isinstance(g, int) else kwargs[g] for g in grad]
    for tensor in wanted:
        tensor.requires_grad_(True)
    try:
        with redirect_stdout(io.StringIO()) if quiet else nullcontext():
            value = function(*args, **kwargs)
            grads = _gradients(value, wanted, cotangents) if grad else []
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Answer(
            error=error_name(error),
            error_text=_text_of(error),
            error_lines=own_lines(error, ours),
            args_after=snapshot(args) if with_args else None,
            kwargs_after=snapshot(kwargs) if with_args else None,
        )
    after = (snapshot(args), snapshot(kwargs)) if with_args else (None, None)
    return Answer(value=snapshot(value), args_after=after[0], kwargs_after=after[1], grads=grads)


def _gradients(value: Any, wanted: list[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    outputs = float_tensors(value)
    pairs = [(o, c) for o, c in zip(outputs, cotangents) if o.requires_grad and o.shape == c.shape]
    if not pairs:
        return [None] * len(wanted)
    total = sum((o * c.to(o.dtype)).sum() for o, c in pairs)
    return list(torch.autograd.grad(total, wanted, allow_unused=True))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:MAX_TEXT]
    except BaseException:
        return "(its message cannot be shown)"


def own_lines(error: BaseException, ours: Sequence[str] = ()) -> str:
    """The learner's own lines of a traceback: file lines of this package, of torch and of the library are left out."""
    hidden = ("/site-packages/", "/grader/", "/lib/python", *ours)
    lines = []
    for frame in traceback.extract_tb(error.__traceback__)[-30:]:
        if not any(h in frame.filename for h in hidden):
            lines.append(f"line {frame.lineno}, in {frame.name}: {(frame.line or '').strip()}"[:300])
    if isinstance(error, SyntaxError) and error.text:
        lines.append(f"line {error.lineno}: {error.text.rstrip()}"[:300])
    return "\n".join(lines[-6:])[:MAX_TEXT]
