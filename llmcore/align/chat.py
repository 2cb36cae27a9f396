"""`ChatTemplate`: conversations as token ids, with a mask that says which tokens the assistant wrote.

Each message is tokenized on its own, what people wrote as ordinary text: a user who types "<|im_end|>" ends no turn.

Taught in: 07_dpo_grpo.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """How a conversation is written; the default is ChatML, as Qwen and others use it.

    >>> print(ChatTemplate().text([{"role": "user", "content": "Hi"}], answer=True))
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    <BLANKLINE>
    """

    before: Mapping[str, str] = field(default_factory=lambda: {role: f"<|im_start|>{role}\n" for role in ROLES})
    """What stands before a message of each role."""
    end: str = "<|im_end|>"
    """The token that ends a message, and with it an answer."""
    between: str = "\n"
    """What stands after each message's end."""

    def __post_init__(self) -> None:
        if set(self.before) != set(ROLES) or not self.end:
            raise ValueError(f"a template needs an end and what goes before {', '.join(ROLES)}, got {self!r}")

    def encode(
        self, tokenizer: Any, messages: Sequence[Mapping[str, str]], *, answer: bool = False
    ) -> tuple[list[int], list[bool]]:
        """(ids, mask) of a conversation; the mask is True at the assistant's words and at the end token after them.

        With `answer` the ids go on to where the assistant's next message begins.

        Raises: ValueError for no messages, a message without role or content, another role, or a tokenizer without the
            end token.
        """
        self.end_id(tokenizer)
        ids, mask = [], []
        for role, content in _checked(messages):
            parts = [
                (tokenizer.encode(self.before[role]), False),
                (encode_plain(tokenizer, content), role == "assistant"),
                (tokenizer.encode(self.end), role == "assistant"),
                (tokenizer.encode(self.between) if self.between else [], False),
            ]
            for piece, counts in parts:
                ids += piece
                mask += [counts] * len(piece)
        if answer:
            opening = tokenizer.encode(self.before["assistant"])
            ids, mask = ids + opening, mask + [False] * len(opening)
        return ids, mask

    def text(self, messages: Sequence[Mapping[str, str]], *, answer: bool = False) -> str:
        """The conversation as it is written; for people to read, since `encode` keeps marks inside messages harmless."""
        written = "".join(self.before[role] + content + self.end + self.between for role, content in _checked(messages))
        return written + (self.before["assistant"] if answer else "")

    def end_id(self, tokenizer: Any) -> int:
        """The id of the end token.

        Raises: ValueError when the tokenizer cuts it into several.
        """
        ids = tokenizer.encode(self.end)
        if len(ids) != 1:
            raise ValueError(
                f"{self.end!r} must be one token of the tokenizer, got {len(ids)}; train it with special_tokens=({self.end!r}, ...)"
            )
        return ids[0]


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text in which the names of special tokens are ordinary text, where the tokenizer can do that."""
    try:
        return list(tokenizer.encode(text, allow_special=False))
    except TypeError:
        return list(tokenizer.encode(text))


def _checked(messages: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    if not messages:
        raise ValueError("a conversation needs at least one message, got none")
    checked = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f'message {number} must be {{"role": ..., "content": text}}, got {message!r}')
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number} must have a role among {', '.join(ROLES)}, got {message.get('role')!r}")
        checked.append((message["role"], message["content"]))
    return checked
