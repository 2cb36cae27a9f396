"""Nested (context-free) languages: sample from them, and decide exactly whether a text belongs to one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

from llmcore.data.synthetic.seeds import seeded


@dataclass(frozen=True)
class Grammar:
    """A context-free grammar: symbols with rules are replaced, all others are letters of the language.

    >>> pairs = Grammar({"S": (("a", "S", "b"), ())}, start="S")
    >>> pairs.accepts("aabb"), pairs.accepts("aab")
    (True, False)

    Raises: ValueError when the start has no rule, a symbol cannot end, or a symbol can begin with itself (left recursion).
    Source: layered random grammars, Physics of Language Models part 1, arXiv:2305.13673, section 2.
    """

    rules: dict[str, tuple[tuple[str, ...], ...]]
    """What each symbol may become."""
    start: str
    """The symbol of the whole text."""

    def __post_init__(self) -> None:
        if self.start not in self.rules:
            raise ValueError(
                f"the start symbol {self.start!r} has no rule; symbols with rules are {', '.join(self.rules)}"
            )
        endless = sorted(set(self.rules) - set(self._heights))
        if endless:
            raise ValueError(f"symbol {endless[0]!r} never ends in letters; give it a rule without itself")
        for symbol in self.rules:
            if symbol in self._reachable_at_left(symbol):
                raise ValueError(
                    f"symbol {symbol!r} can begin with itself; write the rule with the repetition at its end"
                )

    @classmethod
    def layered(
        cls, seed: int, *, levels: int = 4, symbols: int = 3, rules: int = 2, lengths: tuple[int, ...] = (2, 3)
    ) -> "Grammar":
        """A random grammar of `levels` layers: each symbol becomes 2 or 3 symbols of the next layer, the last being letters.

        Raises: ValueError when levels, symbols or rules are below 1.
        """
        if min(levels, symbols, rules) < 1:
            raise ValueError(f"levels, symbols and rules must be at least 1, got {levels}, {symbols}, {rules}")
        random = seeded("grammar", seed, 0)
        letters = [chr(ord("a") + index) for index in range(symbols)]
        table: dict[str, tuple[tuple[str, ...], ...]] = {}
        for level in range(levels):
            below = letters if level == levels - 1 else [f"{level + 1}{letter.upper()}" for letter in letters]
            for letter in letters[: 1 if level == 0 else symbols]:
                made: set[tuple[str, ...]] = set()
                for _ in range(50):
                    made.add(tuple(random.choice(below) for _ in range(random.choice(lengths))))
                    if len(made) == rules:
                        break
                table[f"{level}{letter.upper()}"] = tuple(sorted(made))
        return cls(table, "0A")

    @classmethod
    def brackets(cls, kinds: str = "()[]") -> "Grammar":
        """The language of balanced brackets (Dyck); `kinds` lists opening and closing ones in pairs.

        >>> Grammar.brackets().accepts("([])[]"), Grammar.brackets().accepts("([)]")
        (True, False)
        """
        pairs = tuple((kinds[at], "S", kinds[at + 1], "S") for at in range(0, len(kinds) - 1, 2))
        return cls({"S": (*pairs, ())}, "S")

    def sample(self, seed: int, index: int = 0, max_depth: int = 8) -> str:
        """A text of the language; deeper than max_depth every symbol takes its quickest way to letters.

        >>> Grammar.layered(0).accepts(Grammar.layered(0).sample(seed=1))
        True
        """
        return "".join(self._expand(self.start, seeded("sample", seed, index), max_depth))

    def accepts(self, text: Sequence[str]) -> bool:
        """Whether the whole text belongs to the language: exact, in time that grows at most with the cube of its length."""
        ends: dict[tuple[str, int], set[int]] = {}

        def after(symbol: str, at: int) -> set[int]:
            """Where a piece that this symbol derives may end when it begins at `at`."""
            if symbol not in self.rules:
                return {at + 1} if at < len(text) and text[at] == symbol else set()
            if (symbol, at) not in ends:
                found: set[int] = set()
                for rule in self.rules[symbol]:
                    places = {at}
                    for part in rule:
                        places = set().union(*(after(part, place) for place in places))
                    found |= places
                ends[symbol, at] = found
            return ends[symbol, at]

        return len(text) in after(self.start, 0)

    @cached_property
    def _heights(self) -> dict[str, int]:
        """Least depth at which each symbol can have become letters."""
        heights: dict[str, int] = {}
        for _ in self.rules:
            for symbol, rules in self.rules.items():
                known = [self._rule_height(rule, heights) for rule in rules]
                if any(height is not None for height in known):
                    heights[symbol] = min(height for height in known if height is not None)
        return heights

    def _rule_height(self, rule: tuple[str, ...], heights: dict[str, int]) -> int | None:
        parts = [heights.get(part) if part in self.rules else 0 for part in rule]
        return None if None in parts else 1 + max(parts, default=0)

    def _expand(self, symbol: str, random: Random, depth: int) -> list[str]:
        if symbol not in self.rules:
            return [symbol]
        rules = self.rules[symbol]
        if depth > 0:
            rule = random.choice(rules)
        else:
            rule = min(rules, key=lambda rule: self._rule_height(rule, self._heights))
        return [letter for part in rule for letter in self._expand(part, random, depth - 1)]

    def _reachable_at_left(self, symbol: str) -> set[str]:
        """Symbols that a derivation of this one may begin with."""
        nullable: set[str] = set()
        for _ in self.rules:
            nullable |= {name for name, rules in self.rules.items() if any(set(rule) <= nullable for rule in rules)}
        reached: set[str] = set()
        waiting = [symbol]
        while waiting:
            for rule in self.rules[waiting.pop()]:
                for part in rule:
                    if part in self.rules and part not in reached:
                        reached.add(part)
                        waiting.append(part)
                    if part not in nullable:
                        break
        return reached
