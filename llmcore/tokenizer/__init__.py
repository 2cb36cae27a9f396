"""Tokenizers: byte-level BPE, WordPiece and Unigram.

`bpe` is the algorithm as a lesson reads it, `bpe_tokenizer` the tokenizer made of it, `_scan`, `_merge` and `_encode` the same
algorithm in compiled code for large texts, `formats` the files of other libraries.

>>> from llmcore.tokenizer import BPETokenizer
>>> tokenizer = BPETokenizer.train(["low lower lowest"], vocab_size=258)
>>> tokenizer.merges
[(b'o', b'w'), (b'l', b'ow')]
>>> tokenizer.decode(tokenizer.encode("slow"))
'slow'
"""

from __future__ import annotations

import importlib

_HOME_OF = {
    "BPETokenizer": "bpe_tokenizer",
    "compression_ratio": "bpe",
    "WordPieceTokenizer": "wordpiece",
    "UnigramTokenizer": "unigram",
    "GPT2_PATTERN": "pretokenize",
    "CL100K_PATTERN": "pretokenize",
    "LLAMA3_PATTERN": "pretokenize",
    "QWEN2_PATTERN": "pretokenize",
    "O200K_PATTERN": "pretokenize",
    "PATTERNS": "pretokenize",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
