"""Rows of a data set as token ids, each field checked; a row that cannot be used is named with its number and field.

A prompt is a text, a list of ids, or, with a chat template, a list of messages. A response is a text or a list of ids;
the end token is added where it is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcore.align.chat import ChatTemplate, encode_plain

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns fields into ids and ids back into text.

    Raises: ValueError when a template comes without a tokenizer, or end_id beside a template.
    """

    tokenizer: Any = None
    """Has encode(text) and decode(ids); None when rows hold ids."""
    template: ChatTemplate | None = None
    """How messages are written; None for plain texts."""
    end_id: int | None = None
    """The token that ends a response; a template brings its own."""

    def __post_init__(self) -> None:
        if self.template is None:
            return
        if self.tokenizer is None:
            raise ValueError("a chat template needs a tokenizer; pass tokenizer=...")
        own = self.template.end_id(self.tokenizer)
        if self.end_id not in (None, own):
            raise ValueError(f"the template ends answers with id {own}, got end_id={self.end_id}; leave end_id out")
        object.__setattr__(self, "end_id", own)

    def prompt(self, row: Row, number: int, field: str = "prompt") -> list[int]:
        """The ids of a prompt, with a template up to where the answer begins.

        Raises: ValueError naming the row and the field.
        """
        value = read_field(row, number, field)
        if self.template is not None and not is_ids(value):
            messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
            return self._named(number, field, lambda: self.template.encode(self.tokenizer, messages, answer=True)[0])
        ids = self._ids(value, number, field)
        if not ids:
            raise ValueError(f"row {number}, field {field!r}: a prompt must have at least one token")
        return ids

    def response(self, row: Row, number: int, field: str = "response") -> list[int]:
        """The ids of a response, ending with the end token where there is one.

        Raises: ValueError naming the row and the field.
        """
        ids = self._ids(read_field(row, number, field), number, field)
        return [*ids, self.end_id] if self.end_id is not None and (not ids or ids[-1] != self.end_id) else ids

    def text(self, ids: Sequence[int]) -> Any:
        """The text of a response without its end token; the ids themselves when there is no tokenizer."""
        ids = list(ids)
        if self.end_id is not None and ids and ids[-1] == self.end_id:
            ids = ids[:-1]
        return ids if self.tokenizer is None else self.tokenizer.decode(ids)

    def _ids(self, value: Any, number: int, field: str) -> list[int]:
        if is_ids(value):
            return [int(one) for one in value]
        if not isinstance(value, str):
            raise ValueError(f"row {number}, field {field!r} must be a text or a list of ids, got {value!r}")
        if self.tokenizer is None:
            raise ValueError(f"row {number}, field {field!r} is a text: pass tokenizer=..., or ids in place of texts")
        return self._named(number, field, lambda: encode_plain(self.tokenizer, value))

    @staticmethod
    def _named(number: int, field: str, encode: Any) -> list[int]:
        try:
            return encode()
        except ValueError as error:
            raise ValueError(f"row {number}, field {field!r}: {error}") from None


def is_ids(value: Any) -> bool:
    """Whether a field holds token ids."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return isinstance(value, (list, tuple)) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def read_field(row: Row, number: int, field: str) -> Any:
    """A field of a row.

    Raises: ValueError naming the row and the field when it is not there.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"row {number} must be a mapping of fields, got {type(row).__name__}")
    if row.get(field) is None:
        raise ValueError(f"row {number} has no field {field!r}; it has {', '.join(map(repr, row)) or 'none'}")
    value = row[field]
    return value.tolist() if hasattr(value, "tolist") else value


def check_rows(rows: Sequence[Row], what: str) -> None:
    """Refuse a data set without rows.

    Raises: ValueError.
    """
    if len(rows) == 0:
        raise ValueError(f"{what} needs at least one row of data, got none")
