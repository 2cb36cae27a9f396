"""Retry data: chains of steps in which some steps go wrong and are taken back."""

from dataclasses import dataclass
from random import Random

from llmcore.data.synthetic.seeds import check_count, seeded

BACK = "[BACK]"


@dataclass(frozen=True)
class RetryProblem:
    """A chain of steps, some of them wrong and taken back at once."""

    question: str
    """All definitions, in the order in which they can be worked out, and what is asked."""
    steps: tuple[str, ...]
    """The steps as written, wrong ones included, each wrong one followed by [BACK]."""
    answer: str
    """The value asked for, 0..22."""

    @property
    def text(self) -> str:
        """Question, steps and answer as one text to train on."""
        return f"{self.question}\n{' '.join(self.steps)}\nAnswer: {self.answer}\n"

    @property
    def clean_text(self) -> str:
        """The same without the steps that were taken back."""
        return f"{self.question}\n{' '.join(self._right_steps())}\nAnswer: {self.answer}\n"

    @property
    def n_errors(self) -> int:
        """How many steps were taken back."""
        return self.steps.count(BACK)

    def wrong_spans(self) -> list[tuple[int, int]]:
        """Character ranges of `text` that hold wrong steps, for a loss that does not learn them; [BACK] is outside."""
        spans, at = [], len(self.question) + 1
        for step, following in zip(self.steps, (*self.steps[1:], "")):
            if following == BACK:
                spans.append((at, at + len(step)))
            at += len(step) + 1
        return spans

    def _right_steps(self) -> list[str]:
        following = (*self.steps[1:], "")
        return [step for step, after in zip(self.steps, following) if step != BACK and after != BACK]


def retry_problems(count: int, seed: int, *, n_steps: int = 5, error_rate: float = 0.2) -> list[RetryProblem]:
    """Chains of additions and products modulo 23; before each step, with probability error_rate, a wrong one and [BACK].

    >>> retry_problems(1, seed=0, n_steps=2, error_rate=0.0)[0].text
    'd = 14; r = d * 13; r?\\nd = 14; r = 14 * 13 = 21;\\nAnswer: 21\\n'

    Raises: ValueError for a negative count, n_steps outside 1..26, or an error_rate outside [0, 1).
    Source: Physics of Language Models part 2.2, arXiv:2408.16293, section 3 (arithmetic modulo 23).
    """
    check_count(count)
    if not 1 <= n_steps <= 26 or not 0 <= error_rate < 1:
        raise ValueError(f"n_steps must be in 1..26 and error_rate in [0, 1), got {n_steps} and {error_rate}")
    return [_retry_problem(seeded("retry", seed, index), n_steps, error_rate) for index in range(count)]


def _retry_problem(random: Random, n_steps: int, error_rate: float) -> RetryProblem:
    names = random.sample("abcdefghijklmnopqrstuvwxyz", n_steps)
    values: dict[str, int] = {}
    definitions, steps = [], []
    for place, name in enumerate(names):
        number = random.randrange(2, 23)
        if place == 0:
            values[name] = number
            definitions.append(f"{name} = {number}")
            shown = f"{name} = "
        else:
            before, operation = names[random.randrange(place)], random.choice("+*")
            first = values[before]
            values[name] = (first + number if operation == "+" else first * number) % 23
            definitions.append(f"{name} = {before} {operation} {number}")
            shown = f"{name} = {first} {operation} {number} = "
        while random.random() < error_rate:
            wrong = (values[name] + random.randrange(1, 23)) % 23
            steps += [f"{shown}{wrong};", BACK]
        steps.append(f"{shown}{values[name]};")
    return RetryProblem(f"{'; '.join(definitions)}; {names[-1]}?", tuple(steps), str(values[names[-1]]))
