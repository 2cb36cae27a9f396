"""Whether two values are the same, and if not, the first difference in words that help.

Works on plain data only: numbers, strings, bytes, containers, tensors. A learner's objects never get here as objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.exercise import DEFAULT_TOLERANCE, Close
from grader.wire import Handle

MAX_BRIEF = 220


@dataclass(frozen=True)
class Difference:
    """The first way in which `got` is not `want`. `kind` is one of type, shape, dtype, length, keys, nan, value."""

    kind: str
    message: str


def difference(
    got: Any, want: Any, close: Close = Close(), exact_dtype: bool = True, where: str = ""
) -> Difference | None:
    """None when equal within tolerance.

    A list passes for a tuple and a dict's subclass for a dict; NumPy and 0-d integers pass for an int, and any real number for a float.

    >>> difference([1, 2.5], (1, 2.0)).message
    'at [1]: got 2.5, want 2.0'
    """
    at = f"at {where}: " if where else ""
    if isinstance(want, Tensor):
        return _tensors(got, want, close, exact_dtype, at)
    if isinstance(want, np.ndarray):
        if not isinstance(got, np.ndarray):
            return _type(at, got, "a NumPy array")
        return _tensors(
            torch.from_numpy(np.ascontiguousarray(got)),
            torch.from_numpy(np.ascontiguousarray(want)),
            close,
            exact_dtype,
            at,
        )
    if want is None or isinstance(want, bool | str):
        plain = _plain_number(got) if isinstance(want, bool) else got
        if type(plain) is not type(want) and not (isinstance(want, str) and isinstance(plain, str)):
            return _type(at, got, "None" if want is None else f"a {type(want).__name__}")
        return None if plain == want else Difference("value", f"{at}got {brief(plain)}, want {brief(want)}")
    if isinstance(want, bytes):
        if not isinstance(got, bytes | bytearray):
            return _type(at, got, "bytes")
        return None if bytes(got) == want else Difference("value", f"{at}got {brief(bytes(got))}, want {brief(want)}")
    if isinstance(want, int | float | np.number):
        return _numbers(got, want, close, at)
    if isinstance(want, dict):
        return _dicts(got, want, close, exact_dtype, where, at)
    if isinstance(want, set | frozenset):
        if not isinstance(got, set | frozenset):
            return _type(at, got, "a set")
        return None if set(got) == set(want) else Difference("value", f"{at}got {brief(got)}, want {brief(want)}")
    if isinstance(want, list | tuple):
        if not isinstance(got, list | tuple):
            return _type(at, got, f"a {type(want).__name__} of {len(want)}")
        for n, (g, w) in enumerate(zip(got, want)):
            if found := difference(g, w, close, exact_dtype, f"{where}[{n}]"):
                return found
        if len(got) != len(want):
            return Difference("length", f"{at}got {len(got)} items {brief(got)}, want {len(want)} items {brief(want)}")
        return None
    if type(got) is type(want) and got == want:
        return None
    return _type(at, got, type(want).__name__)


def _type(at: str, got: Any, want: str) -> Difference:
    return Difference("type", f"{at}got {kind_of(got)}, want {want}")


def _plain_number(x: Any) -> Any:
    if isinstance(x, np.generic) or (isinstance(x, Tensor) and x.dim() == 0):
        return x.item()
    return x


def _numbers(got: Any, want: Any, close: Close, at: str) -> Difference | None:
    wanted = "an int" if isinstance(want, int) else "a number"
    plain = _plain_number(got)
    if (
        isinstance(plain, bool)
        or not isinstance(plain, int | float)
        or (isinstance(want, int) and not isinstance(plain, int))
    ):
        return _type(at, got, wanted)
    if isinstance(want, int):
        return None if plain == want else Difference("value", f"{at}got {brief(plain)}, want {brief(want)}")
    want = float(want)
    rtol, atol = _tolerance(close, torch.float64)
    try:
        plain = float(plain)
    except OverflowError:
        return Difference("value", f"{at}got {brief(plain)}, want {brief(want)}")
    if math.isnan(plain) != math.isnan(want):
        return Difference("nan", f"{at}got {plain}, want {want}")
    if plain == want or math.isnan(want) or (math.isfinite(want) and abs(plain - want) <= atol + rtol * abs(want)):
        return None
    return Difference("value", f"{at}got {brief(plain)}, want {brief(want)}")


def _tolerance(close: Close, dtype: torch.dtype) -> tuple[float, float]:
    rtol, atol = DEFAULT_TOLERANCE.get(dtype, (0.0, 0.0))
    return (rtol if close.rtol is None else close.rtol, atol if close.atol is None else close.atol)


def _tensors(got: Any, want: Tensor, close: Close, exact_dtype: bool, at: str) -> Difference | None:
    if not isinstance(got, Tensor):
        return _type(at, got, f"a tensor of shape {tuple(want.shape)}")
    if got.shape != want.shape:
        return Difference("shape", f"{at}got shape {tuple(got.shape)}, want {tuple(want.shape)}")
    if exact_dtype and got.dtype != want.dtype:
        return Difference("dtype", f"{at}got dtype {_short(got.dtype)}, want {_short(want.dtype)}")
    if want.numel() == 0 or (got.dtype == want.dtype and torch.equal(got, want)):
        return None
    if not want.is_floating_point():
        wrong = got.double() != want.double() if got.is_floating_point() else got != want
    else:
        rtol, atol = _tolerance(close, want.dtype)
        g, w = got.detach().double(), want.detach().double()
        if torch.allclose(g, w, rtol, atol):  # NaNs in their right places are looked at below
            return None
        nan_wrong = g.isnan() != w.isnan()
        if bool(nan_wrong.any()):
            index = _first(nan_wrong)
            return Difference(
                "nan", f"{at}got {g[index].item():.6g} at index {list(index)}, want {w[index].item():.6g}"
            )
        wrong = ~((g == w) | ((g - w).abs() <= atol + rtol * w.abs()) & w.isfinite() | w.isnan())
    if not bool(wrong.any()):
        return None
    index = _first(wrong)
    share = f"{int(wrong.sum())} of {wrong.numel()} values differ; " if wrong.numel() > 1 else ""
    place = f" at index {list(index)}" if index else ""
    return Difference("value", f"{at}{share}first: got {_show(got[index])}, want {_show(want[index])}{place}")


def _first(mask: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in mask.nonzero()[0])


def _show(x: Tensor) -> str:
    value = x.item()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _dicts(got: Any, want: dict, close: Close, exact_dtype: bool, where: str, at: str) -> Difference | None:
    if not isinstance(got, dict):
        return _type(at, got, f"a dict of {len(want)}")
    missing = [k for k in want if k not in got]
    extra = [k for k in got if k not in want]
    if missing or extra:
        parts = [f"keys missing: {brief(missing[:3])}"] * bool(missing) + [f"keys too many: {brief(extra[:3])}"] * bool(
            extra
        )
        return Difference("keys", at + "; ".join(parts))
    for key, value in want.items():
        if found := difference(got[key], value, close, exact_dtype, f"{where}[{key!r}]"):
            return found
    return None


def kind_of(value: Any) -> str:
    """What a value is, in a few words: 'None', 'tensor float32 (2, 3)', 'list of 4'."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor {_short(value.dtype)} {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array {value.dtype} {value.shape}"
    if isinstance(value, list | tuple | dict | set | frozenset):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, bool | int | float | str | bytes):
        return f"{type(value).__name__} {brief(value)}"
    return f"an object of type {value.type_name if isinstance(value, Handle) else type(value).__name__}"


def brief(value: Any, limit: int = MAX_BRIEF) -> str:
    """A short, one-line picture of a value; never longer than `limit` characters."""
    if isinstance(value, Tensor):
        flat = value.detach().reshape(-1)[:8].tolist()
        shown = ", ".join(f"{v:.5g}" if isinstance(v, float) else str(v) for v in flat)
        text = f"tensor {_short(value.dtype)} {tuple(value.shape)} [{shown}{', ...' if value.numel() > 8 else ''}]"
    elif isinstance(value, list | tuple):
        inner = ", ".join(brief(v, 60) for v in value[:8]) + (", ..." if len(value) > 8 else "")
        text = f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    elif isinstance(value, dict):
        text = (
            "{"
            + ", ".join(f"{brief(k, 40)}: {brief(v, 40)}" for k, v in list(value.items())[:6])
            + (", ..." if len(value) > 6 else "")
            + "}"
        )
    elif isinstance(value, float):
        text = f"{value:.10g}"
    elif isinstance(value, str | bytes):
        text = repr(value[: limit + 1])
    elif isinstance(value, int) and abs(value) >= 10**60:
        text = f"an integer of {value.bit_length()} bits"
    else:
        try:
            text = repr(value)
        except Exception:
            text = f"an object of type {type(value).__name__}"
    text = text.replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
