"""Column sums: a world small enough to be learned from rewards on one core in minutes, and checked without doubt.

A prompt is "47+85="; a worked answer writes each column's total, units first with the carry counted in, then the
result: "12,13:132". Totals have two digits and results one more than the numbers, zeros in front where needed. Only
what follows the colon is judged. Careless pupils forget to carry: text that they wrote teaches a model to forget as
often.

Taught in: 07_dpo_grpo.
"""

from collections.abc import Sequence
from typing import Any

from llmcore.align.rewards import Reward, exact_reward
from llmcore.data.synthetic.seeds import check_count, seeded

SYMBOLS = "0123456789+=,:"


class SumTokenizer:
    """One token per symbol, and an end token with id 0.

    >>> tokenizer = SumTokenizer()
    >>> tokenizer.decode(tokenizer.encode("4+5="))
    '4+5='
    """

    end_id = 0
    vocab_size = len(SYMBOLS) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises: ValueError naming a symbol that is not of this world.
        """
        strangers = set(text) - set(SYMBOLS)
        if strangers:
            raise ValueError(f"this world has the symbols {SYMBOLS!r} only, got {min(strangers)!r}")
        return [SYMBOLS.index(symbol) + 1 for symbol in text]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, the end token left out."""
        return "".join(SYMBOLS[index - 1] for index in ids if index != self.end_id)


def work_out(first: int, second: int, *, forget: bool = False) -> str:
    """The worked answer of a sum: every column's total, units first, then the result; `forget` leaves out all carries.

    >>> work_out(47, 85), work_out(47, 85, forget=True), work_out(14, 23)
    ('12,13:132', '12,12:122', '07,03:037')
    """
    totals, carry, result = [], 0, 0
    width = max(len(str(first)), len(str(second)))
    for place, (a, b) in enumerate(zip(str(first).zfill(width)[::-1], str(second).zfill(width)[::-1])):
        total = int(a) + int(b) + (0 if forget else carry)
        carry = total // 10
        result += (total if place == width - 1 else total % 10) * 10**place
        totals.append(f"{total:02}")
    return f"{','.join(totals)}:{result:0{width + 1}}"


def make_sums(
    count: int, seed: int, *, digits: int = 2, carrying: float = 0.75, careless: float = 0.0, test: bool = False
) -> list[dict[str, Any]]:
    """Rows with "prompt", "response" (worked), "answer", and the pair "chosen" (carried) and "rejected" (carries forgotten).

    A share `carrying` of the sums carries somewhere; in these the response forgets to with probability `careless`, and
    only these differ within the pair. Numbers have exactly `digits` digits. One sum in eleven, those with (7 first + 3
    second) % 11 == 5, is kept for tests; training still shows every pair of digits in every column.

    >>> make_sums(1, seed=0)[0]["prompt"]
    '73+27='

    Raises: ValueError for a negative count, digits below 2, or shares outside [0, 1].
    """
    check_count(count)
    if digits < 2 or not (0 <= carrying <= 1 and 0 <= careless <= 1):
        raise ValueError(
            f"digits must be at least 2 and shares in [0, 1], got {digits}, carrying={carrying}, careless={careless}"
        )
    random, rows = seeded("sums", seed, int(test)), []
    while len(rows) < count:
        wants_carry = random.random() < carrying
        forgets = random.random() < careless
        while True:
            first, second = (random.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
            right, wrong = work_out(first, second), work_out(first, second, forget=True)
            if ((7 * first + 3 * second) % 11 == 5) == test and (right != wrong) == wants_carry:
                break
        rows.append(
            {
                "prompt": f"{first}+{second}=",
                "response": wrong if forgets else right,
                "answer": f"{first + second:0{digits + 1}}",
                "chosen": right,
                "rejected": wrong,
            }
        )
    return rows


def sum_reward() -> Reward:
    """1.0 for a response whose result, after the last colon, is right; the columns before it are not looked at."""
    return exact_reward("answer", after=":")
