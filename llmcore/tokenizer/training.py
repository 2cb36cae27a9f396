"""From a training source to merges: reading, counting words in parallel, and the choice between plain Python and compiled code."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

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

_BATCH_CHARS = 1 << 18

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
        raise ValueError(f"num_workers must be at least 1, got {num_workers}; pass None for as many as pay")
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
    workers = num_workers or 1
    for part in _in_parallel(count_words, pieces, (pattern, special_tokens), _processes(workers), 2 * workers):
        counts.update(part)
    if engine == "python":
        return bpe.learn_merges(counts, num_merges)
    return _merges_of_counts(counts, num_merges)


def _pieces_of_source(source: Source, pattern: Pattern, special_tokens: Sequence[str]) -> Iterator[str]:
    for document in sources_of(source):
        chunks = read_text(document) if isinstance(document, Path) else slices(document)
        yield from safe_pieces(chunks, pattern, special_tokens)


def _processes(workers: int) -> Executor | None:
    if workers == 1:
        return None
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context)


def _in_parallel(
    function: Callable, items: Iterable, arguments: tuple, executor: Executor | None, ahead: int
) -> Iterator:
    """`function(item, *arguments)` of each item in order, at most so many ahead of what has been taken."""
    if executor is None:
        yield from (function(item, *arguments) for item in items)
        return
    with executor:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(executor.submit(function, item, *arguments))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        yield from (future.result() for future in waiting)


def in_batches(texts: Iterable[str], batch_chars: int) -> Iterator[list[str]]:
    """The texts in order in lists of at least so many characters, the last one excepted.

    >>> list(in_batches(["a", "bc", "d"], 2))
    [['a', 'bc'], ['d']]
    """
    batch, num_chars = [], 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= batch_chars:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _count_compiled(pieces: Iterable[str], special_tokens: Sequence[str], pattern: Pattern, num_threads: int) -> tuple:
    """The words as `WordTable.words` gives them, counted in threads (the kernels hold no GIL), each with a table of its own."""
    from llmcore.tokenizer._scan import SEPARATOR, word_ends
    from llmcore.tokenizer._words import WordTable

    special = special_token_regex(special_tokens)
    free: SimpleQueue[WordTable] = SimpleQueue()
    tables = [WordTable() for _ in range(num_threads)]
    for table in tables:
        free.put(table)

    def count(batch: list[str]) -> None:
        table = free.get()
        try:
            cut = (pieces_of(piece, special) for piece in batch)
            parts = [encode_utf8(part) for is_special, part in chain.from_iterable(cut) if not is_special]
            text, start = bytes([SEPARATOR]).join(parts), 0
            for ends in word_ends(text, pattern):
                table.count(text, start, ends)
                start = int(ends[-1])
        finally:
            free.put(table)

    executor = ThreadPoolExecutor(num_threads) if num_threads > 1 else None
    for _ in _in_parallel(count, in_batches(pieces, _BATCH_CHARS), (), executor, 2 * num_threads):
        pass
    while len(tables) > 1:
        tables[0].add(tables.pop())
    return tables[0].words()


def _merges_of_counts(counts: Counter[bytes], num_merges: int) -> list[Pair]:
    import numpy as np

    from llmcore.tokenizer._merge import learn_merges

    lengths = np.array([len(word) for word in counts], dtype=np.int64)
    pool = np.frombuffer(b"".join(counts), dtype=np.uint8).copy()
    occurrences = np.array(list(counts.values()), dtype=np.int64)
    return learn_merges(pool, np.cumsum(lengths) - lengths, lengths, occurrences, num_merges)
