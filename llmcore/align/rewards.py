"""Verifiable rewards: an answer that a program can check, exactly, by its number, or by its form.

A reward is a function (row of the data set, response text) -> float. The makers here read the wanted answer from a
field of the row.

Taught in: 07_dpo_grpo.
"""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

Reward = Callable[[Mapping[str, Any], Any], float]

_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+\u2212]?\.\d+"
)


class RewardParts:
    """A reward that knows its parts: one function, or a mapping of name to function or (weight, function), summed by weight.

    >>> parts = RewardParts({"right": exact_reward(), "form": (0.5, format_reward("[0-9]+"))})
    >>> parts({"answer": "12"}, "13", 0)
    (0.5, {'right': 0.0, 'form': 1.0})

    Raises: ValueError for no parts, and, when called, for a reward that is no finite number.
    """

    def __init__(self, reward: Reward | Mapping[str, Any]) -> None:
        given = reward if isinstance(reward, Mapping) else {getattr(reward, "__name__", "reward"): reward}
        self.parts = {name: part if isinstance(part, tuple) else (1.0, part) for name, part in given.items()}
        if not self.parts or not all(callable(function) for _, function in self.parts.values()):
            raise ValueError(
                f"a reward must be a function (row, response) -> float, or a mapping of such, got {reward!r}"
            )

    def __call__(self, row: Mapping[str, Any], response: Any, number: int) -> tuple[float, dict[str, float]]:
        """(reward, its parts before weighting) of a response to row `number`."""
        values = {}
        for name, (_, function) in self.parts.items():
            try:
                values[name] = float(function(row, response))
            except (TypeError, ValueError) as error:
                raise ValueError(f"reward {name!r} failed on row {number}, response {response!r}: {error}") from error
            if not math.isfinite(values[name]):
                raise ValueError(
                    f"reward {name!r} must be finite, got {values[name]} on row {number}, response {response!r}"
                )
        return sum(weight * values[name] for name, (weight, _) in self.parts.items()), values


def exact_reward(field: str = "answer", after: str | None = None) -> Reward:
    """A reward of 1.0 when the response, white space at both ends aside, is the row's answer; else 0.0.

    With `after`, only what follows its last occurrence counts, and a response without it gets 0.0: worked steps may
    come first.

    >>> exact_reward(after="=")({"answer": "12"}, "3+4=7, 7+5=12")
    1.0
    """

    def reward(row: Mapping[str, Any], response: str) -> float:
        wanted = str(_field(row, field)).strip()
        if after is not None:
            _, found, response = response.rpartition(after)
            if not found:
                return 0.0
        return float(response.strip() == wanted)

    reward.__name__ = "exact"
    return reward


def numeric_reward(field: str = "answer", tolerance: float = 0.0) -> Reward:
    """A reward of 1.0 when the last number of the response equals the row's answer to within `tolerance`; else 0.0.

    Signs, thousands commas, decimals and exponents are understood: "1,200", "1200.0" and "1.2e3" are one number.

    >>> numeric_reward()({"answer": 1200}, "first 7, so the answer is 1,200.")
    1.0

    Raises: ValueError for a negative tolerance, and, when called, for an answer that is no number.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")

    def reward(row: Mapping[str, Any], response: str) -> float:
        wanted = last_number(str(_field(row, field)))
        if wanted is None:
            raise ValueError(f"field {field!r} must hold a number for a numeric reward, got {row[field]!r}")
        given = last_number(response)
        return float(given is not None and abs(given - wanted) <= Decimal(str(tolerance)))

    reward.__name__ = "numeric"
    return reward


def format_reward(pattern: str) -> Reward:
    """A reward of 1.0 when the whole response, white space at both ends aside, matches the regular expression; else 0.0.

    >>> format_reward(r"<think>.*</think>\\d+")({}, "<think>two and two</think>4")
    1.0

    Raises: ValueError for a pattern that is no regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None

    def reward(row: Mapping[str, Any], response: str) -> float:
        return float(compiled.fullmatch(response.strip()) is not None)

    reward.__name__ = "format"
    return reward


def last_number(text: str) -> Decimal | None:
    """The last number in a text, exactly as written; None when there is none.

    >>> last_number("between 3 and -1,024.50"), last_number("none")
    (Decimal('-1024.50'), None)
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    try:
        return Decimal(found[-1].replace(",", "").replace("\u2212", "-"))
    except InvalidOperation:
        return None


def _field(row: Mapping[str, Any], field: str) -> Any:
    if field not in row:
        raise ValueError(f"the row has no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}")
    return row[field]
