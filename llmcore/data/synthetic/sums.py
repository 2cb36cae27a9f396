"""Sums, differences and products with the written method worked out, and a checker of every line."""

import re
from dataclasses import dataclass

from llmcore.data.synthetic.seeds import check_count, seeded


@dataclass(frozen=True)
class Problem:
    """A question, its solution step by step, and the answer alone."""

    question: str
    """Such as "478+96"."""
    work: tuple[str, ...]
    """One line per step."""
    answer: str
    """Such as "574"."""

    @property
    def text(self) -> str:
        """Question, steps and answer as one text to train on."""
        return "\n".join((self.question, *self.work, f"={self.answer}")) + "\n"


def arithmetic(count: int, seed: int, *, max_digits: int = 3, operations: str = "+-*") -> list[Problem]:
    """Problems with the written method worked out, units first; differences are never negative.

    >>> print(arithmetic(1, seed=0, operations="+")[0].text, end="")
    5+50
    5+0=5 write 5
    0+5=5 write 5
    =55

    Raises: ValueError for a negative count, max_digits below 1, or an operation that is not one of + - *.
    """
    check_count(count)
    if max_digits < 1 or not operations or set(operations) - set("+-*"):
        raise ValueError(
            f"max_digits must be at least 1 and operations among '+-*', got {max_digits} and {operations!r}"
        )
    problems = []
    for index in range(count):
        random = seeded("arithmetic", seed, index)
        operation = random.choice(operations)
        first, second = (random.randrange(10 ** random.randint(1, max_digits)) for _ in range(2))
        if operation == "-":
            first, second = max(first, second), min(first, second)
        result = {"+": first + second, "-": first - second, "*": first * second}[operation]
        work = {"+": _add, "-": _subtract, "*": _multiply}[operation](first, second)
        problems.append(Problem(f"{first}{operation}{second}", tuple(work), str(result)))
    return problems


def _columns(first: int, second: int) -> list[tuple[int, int]]:
    """Digits of both numbers, units first, the shorter one filled up with zeros."""
    width = max(len(str(first)), len(str(second)))
    return [(int(a), int(b)) for a, b in zip(str(first).zfill(width)[::-1], str(second).zfill(width)[::-1])]


def _add(first: int, second: int) -> list[str]:
    lines, carry = [], 0
    for a, b in _columns(first, second):
        total = a + b + carry
        carried = f"+{carry}" if carry else ""
        carry = total // 10
        lines.append(f"{a}+{b}{carried}={total} write {total % 10}" + (f" carry {carry}" if carry else ""))
    return lines + ([f"{carry} write {carry}"] if carry else [])


def _subtract(first: int, second: int) -> list[str]:
    lines, borrow = [], 0
    for a, b in _columns(first, second):
        taken = f"-{borrow}" if borrow else ""
        short = a - b - borrow < 0
        top = a + 10 if short else a
        lines.append(f"{top}-{b}{taken}={top - b - borrow} write {top - b - borrow}" + (" borrow 1" if short else ""))
        borrow = int(short)
    return lines


def _multiply(first: int, second: int) -> list[str]:
    lines, total = [], 0
    for place, digit in enumerate(reversed(str(second))):
        part = first * int(digit) * 10**place
        lines.append(f"{first}*{int(digit) * 10**place}={part} sum {total}+{part}={total + part}")
        total += part
    return lines


_EQUATION = re.compile(r"(?<![\d+*-])(\d+(?:[+*-]\d+)+)=(\d+)")


def wrong_equations(text: str) -> list[str]:
    """Every equation in a text whose two sides differ, such as a model's attempt at `arithmetic`.

    >>> wrong_equations("9+2=11 write 1 carry 1; 3*4=13")
    ['3*4=13']
    """
    return [match[0] for match in _EQUATION.finditer(text) if _value(match[1]) != int(match[2])]


def _value(expression: str) -> int:
    """Value of numbers joined by + - *, products first."""
    total = 0
    for sign, product in re.findall(r"([+-]?)(\d+(?:\*\d+)*)", expression):
        value = 1
        for factor in product.split("*"):
            value *= int(factor)
        total += -value if sign == "-" else value
    return total


def is_solved(problem: Problem, text: str) -> bool:
    """Whether the text's last line that starts with "=" gives the problem's answer.

    >>> is_solved(Problem("1+1", (), "2"), "1+1\\n=2\\n"), is_solved(Problem("1+1", (), "2"), "=3")
    (True, False)
    """
    answers = re.findall(r"^=(\S+)$", text, flags=re.MULTILINE)
    return bool(answers) and answers[-1] == problem.answer
