"""Synthetic worlds: texts made under a seed whose right answers are known.

- `arithmetic`: sums, differences and products with the written method worked out; `wrong_equations` and `is_solved` check a text
- `Grammar`: nested (context-free) languages to sample from, with an exact checker of membership
- `biographies`: people with facts, told in several ways, and questions about them
- `stories`: short tales in simple words, and a question about each
- `retry_problems`: chains of steps in which some steps go wrong and are taken back

The same seed gives the same texts, and a longer list begins with the shorter one.
"""

from llmcore.data.synthetic.grammar import Grammar
from llmcore.data.synthetic.people import Person, Story, biographies, stories
from llmcore.data.synthetic.retry import BACK, RetryProblem, retry_problems
from llmcore.data.synthetic.sums import Problem, arithmetic, is_solved, wrong_equations

__all__ = [
    "BACK",
    "Grammar",
    "Person",
    "Problem",
    "RetryProblem",
    "Story",
    "arithmetic",
    "biographies",
    "is_solved",
    "retry_problems",
    "stories",
    "wrong_equations",
]
