"""From a training source to merges: reading, counting words in parallel, and the choice between plain Python and compiled code."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import numpy as np

from llmcore.tokenizer import bpe
from llmcore.tokenizer.bpe import Pair
from llmcore.tokenizer.pretokenize import (
    PATTERNS,
    Pattern,
    count_words,
    encode_utf8,
    pieces_of,
    read_text,
    safe_pieces,
    slices,
    sources_of,
    special_token_regex,
)

Engine = Literal["auto", "python", "compiled"]
ENGINES: tuple[Engine, ...] = ("auto", "python", "compiled")

COMPILED_FROM_CHARS = 4_000_000
"""Texts from this size on are worth loading the compiled code for, which may have to be compiled first (some ten seconds)."""

Source = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def check_engine(engine: str) -> None:
    """Raises: ValueError for an engine that is not known."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")


def learn_from(
    source: Source,
    num_merges: int,
    special_tokens: Sequence[str],
    pattern: Pattern,
    engine: Engine = "auto",
    num_workers: int | None = None,
) -> list[Pair]:
    """The merges learned from a source (see `BPETokenizer.train`).

    Raises: ValueError when the source holds no text.
    """
    check_engine(engine)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be at least 1, got {num_workers}; for one a processor pass None")
    pieces = _pieces_of_source(source, pattern, special_tokens)
    begun, num_chars = [], 0
    for piece in pieces:
        begun.append(piece)
        num_chars += len(piece)
        if num_chars >= COMPILED_FROM_CHARS:
            break
    if num_chars == 0:
        raise ValueError("the training source holds no text; pass a file or texts that are not empty")
    pieces = chain(begun, pieces)
    if engine == "auto":
        engine = "compiled" if num_chars >= COMPILED_FROM_CHARS else "python"
    if engine == "compiled" and pattern in PATTERNS.values():
        from llmcore.tokenizer._merge import learn_merges

        words = _count_compiled(pieces, special_tokens, pattern, num_workers or min(os.cpu_count() or 1, 8))
        return learn_merges(*words, num_merges)
    counts: Counter[bytes] = Counter()
    for part in _in_parallel(count_words, pieces, (pattern, special_tokens), _processes(num_workers)):
        counts.update(part)
    if engine == "python":
        return bpe.learn_merges(counts, num_merges)
    return _merges_of_counts(counts, num_merges)


def _pieces_of_source(source: Source, pattern: Pattern, special_tokens: Sequence[str]) -> Iterator[str]:
    for document in sources_of(source):
        chunks = read_text(document) if isinstance(document, Path) else slices(document)
        yield from safe_pieces(chunks, pattern, special_tokens)


def _processes(num_workers: int | None) -> Executor | None:
    if num_workers is None or num_workers == 1:
        return None
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    return ProcessPoolExecutor(num_workers, mp_context=context)


def _in_parallel(function, items: Iterable, arguments: tuple, executor: Executor | None) -> Iterator:
    """`function(item, *arguments)` of each item in order, a few of them ahead at a time."""
    if executor is None:
        yield from (function(item, *arguments) for item in items)
        return
    with executor:
        waiting: list[Future] = []
        for item in items:
            waiting.append(executor.submit(function, item, *arguments))
            if len(waiting) > 2 * executor._max_workers:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)


def _count_compiled(
    pieces: Iterable[str], special_tokens: Sequence[str], pattern: Pattern, num_threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The words as `WordTable.words` gives them, counted in threads (the kernels hold no GIL), each with a table of its own."""
    from llmcore.tokenizer._scan import SEPARATOR, word_ends
    from llmcore.tokenizer._words import WordTable

    special = special_token_regex(special_tokens)
    free: SimpleQueue[WordTable] = SimpleQueue()
    tables = [WordTable() for _ in range(num_threads)]
    for table in tables:
        free.put(table)

    def count(piece: str) -> None:
        table = free.get()
        try:
            parts = [encode_utf8(part) for is_special, part in pieces_of(piece, special) if not is_special]
            text, start = bytes([SEPARATOR]).join(parts), 0
            for ends in word_ends(text, pattern):
                table.count(text, start, ends)
                start = int(ends[-1])
        finally:
            free.put(table)

    executor = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
    for _ in _in_parallel(count, pieces, (), executor):
        pass
    while len(tables) > 1:
        tables[0].add(tables.pop())
    return tables[0].words()


def _merges_of_counts(counts: Counter[bytes], num_merges: int) -> list[Pair]:
    from llmcore.tokenizer._merge import learn_merges

    lengths = np.array([len(word) for word in counts], dtype=np.int64)
    pool = np.frombuffer(b"".join(counts), dtype=np.uint8).copy()
    occurrences = np.array(list(counts.values()), dtype=np.int64)
    return learn_merges(pool, np.cumsum(lengths) - lengths, lengths, occurrences, num_merges)
