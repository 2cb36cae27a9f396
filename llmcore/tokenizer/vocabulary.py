"""The tokens of a tokenizer and their ids: what belongs together, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llmcore.tokenizer.bpe import Pair
from llmcore.tokenizer.pretokenize import check_special_tokens


def number_special(special_tokens: Mapping[str, int] | Iterable[str], first_id: int) -> dict[str, int]:
    """The special tokens with their ids; those that have none get ids from `first_id` on.

    >>> number_special(["<a>", "<b>"], 7)
    {'<a>': 7, '<b>': 8}

    Raises: ValueError for special tokens that are empty or listed twice.
    """
    if isinstance(special_tokens, Mapping):
        return dict(special_tokens)
    return {token: first_id + place for place, token in enumerate(check_special_tokens(special_tokens))}


def divide_vocab(
    vocab: Mapping[int, bytes], special_tokens: Iterable[str] | Mapping[str, int]
) -> tuple[dict[bytes, int], dict[str, int]]:
    """Ordinary tokens and special tokens of a vocabulary, each with its id.

    A special token without an id has the first one that its bytes have, unless that is the only one of a single byte; else the next
    after the largest.

    >>> divide_vocab({0: b"<a>", 1: b"x"}, ["<a>", "<b>"])
    ({b'x': 1}, {'<a>': 0, '<b>': 2})

    Raises: ValueError when two ordinary ids have the same bytes.
    """
    ids_of: dict[bytes, list[int]] = {}
    for index, token in sorted(vocab.items()):
        ids_of.setdefault(bytes(token), []).append(index)
    special: dict[str, int] = {}
    if isinstance(special_tokens, Mapping):
        special = dict(special_tokens)
    else:
        next_id = max(vocab, default=-1) + 1
        for token in check_special_tokens(special_tokens):
            known = ids_of.get(token.encode("utf-8"), [])
            if len(known) == 1 and len(token.encode("utf-8")) == 1:
                known = []  # that id is the byte itself
            special[token] = known[0] if known else next_id
            next_id += not known
    taken = set(special.values())
    token_ids: dict[bytes, int] = {}
    for token, ids in ids_of.items():
        ordinary = [index for index in ids if index not in taken]
        if len(ordinary) > 1:
            raise ValueError(f"ids {ordinary[0]} and {ordinary[1]} both stand for {token!r}; a token must have one id")
        if ordinary:
            token_ids[token] = ordinary[0]
    return token_ids, special


def check_tokens(
    token_ids: Mapping[bytes, int], special_tokens: Mapping[str, int], merges: Sequence[Pair], ranks: Mapping[Pair, int]
) -> None:
    """Raises: ValueError when ids or merges are doubled, or a merge joins or makes what is no token."""
    if len(ranks) < len(merges):
        doubled = next(rank for rank, pair in enumerate(merges) if ranks[pair] != rank)
        raise ValueError(f"merge {doubled} {merges[doubled]!r} is listed twice; keep the first")
    used: dict[int, str | bytes] = {}
    for token, index in [*special_tokens.items(), *token_ids.items()]:
        if index in used:
            raise ValueError(f"id {index} stands for both {used[index]!r} and {token!r}; every token needs its own id")
        if index < 0 or not token:
            raise ValueError(f"tokens must not be empty and ids not negative, got {token!r} with id {index}")
        used[index] = token
    for rank, (left, right) in enumerate(merges):
        if left not in token_ids or right not in token_ids or left + right not in token_ids:
            missing = next(token for token in (left, right, left + right) if token not in token_ids)
            raise ValueError(
                f"merge {rank} ({left!r}, {right!r}) needs the token {missing!r}, which is not in the vocabulary; "
                "vocabulary and merges must come from the same training"
            )
