"""Files of byte-level BPE tokenizers: our own JSON, Hugging Face `tokenizer.json`, tiktoken rank files.

Readers return the arguments of `BPETokenizer`; what a file asks for and the class cannot do is refused by name, because a
tokenizer that is almost right gives wrong ids without a word.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore.tokenizer import bpe
from llmcore.tokenizer.bpe import Pair
from llmcore.tokenizer.pretokenize import GPT2_PATTERN

if TYPE_CHECKING:
    from llmcore.tokenizer.bpe_tokenizer import BPETokenizer

_NATIVE_FORMAT = "llmcore-bpe"
_NATIVE_VERSION = 1


@cache
def byte_letters() -> dict[int, str]:
    """The printable character that stands for each byte in GPT-2's and Hugging Face's files.

    Printable Latin-1 stands for itself, the other bytes for U+0100 and up, in order.

    >>> byte_letters()[ord("a")], byte_letters()[ord(" ")]
    ('a', 'Ġ')

    Source: GPT-2, `bytes_to_unicode`.  Taught in: 01_tokenizer_unicode.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(0x100 + place) for place, byte in enumerate(others)}


def to_letters(token: bytes) -> str:
    """The token in printable characters, one for each byte.

    >>> to_letters(" é".encode())
    'ĠÃ©'
    """
    letters = byte_letters()
    return "".join(letters[byte] for byte in token)


def from_letters(text: str) -> bytes:
    """The bytes that printable characters stand for.

    Raises: ValueError for a character that stands for no byte.
    """
    try:
        return bytes(map(_bytes_of_letters().__getitem__, text))
    except KeyError as error:
        raise ValueError(
            f"token {text!r} holds {error.args[0]!r}, which stands for no byte; this is no byte-level BPE file"
        ) from None


@cache
def _bytes_of_letters() -> dict[str, int]:
    return {letter: byte for byte, letter in byte_letters().items()}


def _write(path: str | os.PathLike[str], content: str) -> None:
    """Write the whole file or none of it: under a temporary name first."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode("utf-8"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{os.fspath(path)!r} is not JSON: {error}; the file is damaged or something else") from None
    if not isinstance(document, dict):
        raise ValueError(f"{os.fspath(path)!r} holds a JSON {type(document).__name__}, not a tokenizer")
    return document


def write_native(tokenizer: BPETokenizer, path: str | os.PathLike[str]) -> None:
    """Write a tokenizer as our own JSON."""
    document = {
        "format": _NATIVE_FORMAT,
        "version": _NATIVE_VERSION,
        "pattern": tokenizer.pattern,
        "normalization": tokenizer.normalization,
        "whole_words": tokenizer.whole_words,
        "special_tokens": tokenizer.special_tokens,
        "tokens": {to_letters(token): index for token, index in tokenizer.token_ids.items()},
        "merges": [[to_letters(left), to_letters(right)] for left, right in tokenizer.merges],
    }
    _write(path, json.dumps(document, ensure_ascii=False, indent=0) + "\n")


def read_native(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the tokenizer that `write_native` wrote."""
    document = _read_json(path)
    if document.get("format") != _NATIVE_FORMAT:
        hint = "use from_tokenizer_json" if "model" in document else "use a file written by BPETokenizer.save"
        raise ValueError(f"{os.fspath(path)!r} is not in the format {_NATIVE_FORMAT!r}; {hint}")
    if document.get("version") != _NATIVE_VERSION:
        raise ValueError(
            f"{os.fspath(path)!r} has version {document.get('version')!r}, this code reads {_NATIVE_VERSION}; update llmcore"
        )
    try:
        pattern = document["pattern"]
        return {
            "token_ids": {from_letters(token): index for token, index in document["tokens"].items()},
            "merges": [(from_letters(left), from_letters(right)) for left, right in document["merges"]],
            "special_tokens": document["special_tokens"],
            "pattern": tuple(pattern) if isinstance(pattern, list) else pattern,
            "normalization": document["normalization"],
            "whole_words": document["whole_words"],
        }
    except KeyError as error:
        raise ValueError(f"{os.fspath(path)!r} lacks {error.args[0]!r}; the file is damaged, save it again") from None


def write_tokenizer_json(tokenizer: BPETokenizer, path: str | os.PathLike[str]) -> None:
    """Write a tokenizer as Hugging Face `tokenizer.json`."""
    vocab = {to_letters(token): index for token, index in tokenizer.token_ids.items()}
    for token, index in tokenizer.special_tokens.items():
        if token in vocab:
            raise ValueError(
                f"special token {token!r} reads like the ordinary token {from_letters(token)!r} in tokenizer.json; "
                "choose one that no text can make, such as '<|endoftext|>', or use save"
            )
        vocab[token] = index
    patterns = tokenizer.pattern if isinstance(tokenizer.pattern, tuple) else (tokenizer.pattern,)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for token, index in sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
        ],
        "normalizer": tokenizer.normalization and {"type": tokenizer.normalization},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *(
                    {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
                    for p in patterns
                ),
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.whole_words,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[to_letters(left), to_letters(right)] for left, right in tokenizer.merges],
        },
    }
    _write(path, json.dumps(document, ensure_ascii=False, indent=2) + "\n")


def read_tokenizer_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of the tokenizer in a Hugging Face `tokenizer.json`."""
    document = _read_json(path)
    model = document.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise ValueError(f"{os.fspath(path)!r} holds no BPE model; BPETokenizer reads byte-level BPE only")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise ValueError(f"{os.fspath(path)!r} asks for {option}={model[option]!r}, which byte-level BPE has not")
    special = {}
    for added in document.get("added_tokens") or []:
        refused = [name for name in ("lstrip", "rstrip", "single_word") if added.get(name)]
        if refused:
            raise ValueError(f"added token {added['content']!r} asks for {refused[0]}, which BPETokenizer cannot do")
        special[added["content"]] = added["id"]
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    return {
        "token_ids": {
            from_letters(token): index for token, index in model["vocab"].items() if special.get(token) != index
        },
        "merges": [(from_letters(left), from_letters(right)) for left, right in merges],
        "special_tokens": special,
        "pattern": _pattern_of(document.get("pre_tokenizer"), path),
        "normalization": _normalization_of(document.get("normalizer"), path),
        "whole_words": bool(model.get("ignore_merges")),
    }


def _steps(part: dict[str, Any] | None, list_name: str) -> list[dict[str, Any]]:
    if not part:
        return []
    return part[list_name] if part["type"] == "Sequence" else [part]


def _normalization_of(normalizer: dict[str, Any] | None, path: str | os.PathLike[str]) -> str | None:
    steps = _steps(normalizer, "normalizers")
    if not steps:
        return None
    if len(steps) > 1 or steps[0]["type"] not in ("NFC", "NFD", "NFKC", "NFKD"):
        names = [step["type"] for step in steps]
        raise ValueError(
            f"{os.fspath(path)!r} asks for the normalizers {names}; BPETokenizer does one of NFC, NFD, NFKC, NFKD"
        )
    return steps[0]["type"]


def _pattern_of(pre_tokenizer: dict[str, Any] | None, path: str | os.PathLike[str]) -> str | tuple[str, ...]:
    steps = _steps(pre_tokenizer, "pretokenizers")
    if not steps or steps[-1]["type"] != "ByteLevel":
        raise ValueError(
            f"{os.fspath(path)!r} has no ByteLevel pre-tokenizer at the end; BPETokenizer reads byte-level BPE only"
        )
    patterns = []
    for step in steps:
        if step["type"] == "ByteLevel":
            if step.get("add_prefix_space"):
                raise ValueError(f"{os.fspath(path)!r} asks for add_prefix_space, which BPETokenizer cannot do")
            patterns += [GPT2_PATTERN] if step.get("use_regex", True) else []
        elif step["type"] == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            kind, pattern = next(iter(step["pattern"].items()))
            patterns.append(pattern if kind == "Regex" else "".join(f"\\x{{{ord(c):x}}}" for c in pattern))
        elif step["type"] == "Digits":
            patterns.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        else:
            raise ValueError(f"{os.fspath(path)!r} asks for the pre-tokenizer {step}, which BPETokenizer cannot do")
    return patterns[0] if len(patterns) == 1 else tuple(patterns)


def write_tiktoken(tokenizer: BPETokenizer, path: str | os.PathLike[str]) -> None:
    """Write the ordinary tokens as a tiktoken rank file."""
    made = [tokenizer.token_ids[left + right] for left, right in tokenizer.merges]
    if any(later < earlier for earlier, later in pairwise(made)):
        raise ValueError(
            "ids do not rise with the merges, so a rank file would merge in another order; use to_tokenizer_json"
        )
    ranked = sorted(tokenizer.token_ids.items(), key=lambda item: item[1])
    _write(path, "".join(f"{base64.b64encode(token).decode('ascii')} {index}\n" for token, index in ranked))


def read_tiktoken(path: str | os.PathLike[str]) -> tuple[dict[bytes, int], list[Pair]]:
    """The tokens of a tiktoken rank file with their ids, and the merges that they imply."""
    token_ids: dict[bytes, int] = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            encoded, rank = line.split()
            token_ids[base64.b64decode(encoded, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(
                f"line {number} of {os.fspath(path)!r} is {line[:60]!r}, not base64, a space and a rank; "
                "is it a tiktoken rank file?"
            ) from None
    if not token_ids:
        raise ValueError(f"{os.fspath(path)!r} is empty; a rank file has at least the 256 bytes")
    return token_ids, merges_of_ranks(token_ids)


def merges_of_ranks(token_ids: dict[bytes, int]) -> list[Pair]:
    """The merges behind a rank file: the pair that the tokens before a token make of its bytes.

    A token that they do not cut in two gets every pair that makes it, as tiktoken would merge any of them.
    """
    ranks: dict[Pair, int] = {}
    for token in sorted(token_ids, key=token_ids.__getitem__):
        if len(token) == 1:
            continue
        parts = bpe.encode_word(token, ranks)
        pairs = [(parts[0], parts[1])]
        if len(parts) != 2:
            cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
            pairs = [pair for pair in cuts if pair[0] in token_ids and pair[1] in token_ids]
        for pair in pairs:
            ranks[pair] = len(ranks)
    return list(ranks)
