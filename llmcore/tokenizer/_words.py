"""A table that counts words without a Python object for any of them.

Open addressing: the key of a word says in which row to look first, and the next free row ends the search. A row is one stretch of
memory, so that a word costs one cache miss, and the bytes of all words lie in one pool.
"""

from __future__ import annotations

import numpy as np
from numba import int32, int64, uint8, uint64, void

from llmcore.tokenizer._jit import BYTES, inlined, kernel

# Columns of the table; a row with length 0 is free.
KEY, OFFSET, LENGTH, COUNT = range(4)

_BATCH = 64


@inlined
def _key(data, start, end):
    """The key of a word: up to 7 bytes are packed with their number, which no other word has; longer ones are hashed, below 0."""
    size = end - start
    if size < 8:
        packed = size << 56
        for at in range(start, end):
            packed |= int64(data[at]) << ((at - start) << 3)
        return packed
    value = uint64(size)
    for at in range(start, end):
        value = (value ^ data[at]) * uint64(0x9FB21C651E98DF25)
    return int64(value ^ value >> uint64(32)) | int64(-0x8000000000000000)


@inlined
def _first_row(key, mask):
    return int64(uint64(key) * uint64(0x9E3779B97F4A7C15) >> uint64(32)) & mask


@inlined
def _is_same(data, at, size, table, row, pool):
    """Whether the word of a row is this one, byte for byte."""
    offset = table[row, OFFSET]
    if table[row, LENGTH] != size:
        return False
    place = 0
    while place < size and pool[offset + place] == data[at + place]:
        place += 1
    return place == size


@inlined
def _insert(data, at, size, key, row, table, pool, used):
    offset = used[1]
    table[row, KEY], table[row, OFFSET], table[row, LENGTH] = key, offset, size
    for place in range(size):
        pool[offset + place] = data[at + place]
    used[0] += 1
    used[1] += size


@kernel(int64(BYTES, int64, int32[::1], int64, int64[:, ::1], uint8[::1], int64[::1]))
def count_words(data, at, ends, word, table, pool, used):
    """Count the words from number `word` on, which begins at `at`; the number of the first that found no room.

    `used` holds how many rows and pool bytes are in use. Keys come first for a batch of words, and with them a look at their rows:
    the processor fetches those from memory all at once, where one search after another would wait for each.
    """
    mask, looked = len(table) - 1, 0
    keys = np.empty(_BATCH, dtype=np.int64)
    for first in range(word, len(ends), _BATCH):
        last, start = min(first + _BATCH, len(ends)), at
        for number in range(first, last):
            keys[number - first] = _key(data, start, ends[number])
            start = ends[number]
        for number in range(first, last):
            looked += table[_first_row(keys[number - first], mask), KEY]
        for number in range(first, last):
            key, size = keys[number - first], ends[number] - at
            row = _first_row(key, mask)
            while table[row, LENGTH] != 0:
                if table[row, KEY] == key and (key >= 0 or _is_same(data, at, size, table, row, pool)):
                    break
                row = (row + 1) & mask
            if table[row, LENGTH] == 0:
                if 2 * used[0] >= len(table) or used[1] + size > len(pool):
                    return number
                _insert(data, at, size, key, row, table, pool, used)
            table[row, COUNT] += 1
            at = ends[number]
    used[2] = looked  # without a use the compiler would leave the looks out
    return len(ends)


@kernel(int64(int64[:, ::1], uint8[::1], int64, int64[:, ::1], uint8[::1], int64[::1]))
def add_rows(other, other_pool, start, table, pool, used):
    """Add the counts of another table from a row on; the number of the first row that found no room."""
    mask = len(table) - 1
    for place in range(start, len(other)):
        key, offset, size, count = other[place, KEY], other[place, OFFSET], other[place, LENGTH], other[place, COUNT]
        if size == 0:
            continue
        row = _first_row(key, mask)
        while table[row, LENGTH] != 0:
            if table[row, KEY] == key and (key >= 0 or _is_same(other_pool, offset, size, table, row, pool)):
                break
            row = (row + 1) & mask
        if table[row, LENGTH] == 0:
            if 2 * used[0] >= len(table) or used[1] + size > len(pool):
                return place
            _insert(other_pool, offset, size, key, row, table, pool, used)
        table[row, COUNT] += count
    return len(other)


@kernel(void(int64[:, ::1], int64[:, ::1]))
def move_rows(old, new):
    """Put the rows of a table into a larger, empty one."""
    mask = len(new) - 1
    for place in range(len(old)):
        if old[place, LENGTH] != 0:
            row = _first_row(old[place, KEY], mask)
            while new[row, LENGTH] != 0:
                row = (row + 1) & mask
            new[row] = old[place]


class WordTable:
    """Words with their counts."""

    def __init__(self) -> None:
        self._table = np.zeros((1 << 12, 4), dtype=np.int64)
        self._pool = np.empty(1 << 16, dtype=np.uint8)
        self._used = np.zeros(3, dtype=np.int64)

    def count(self, text: bytes, start: int, ends: np.ndarray) -> None:
        """Count the words of a text that end at `ends`, the first of which begins at `start`."""
        data, word = np.frombuffer(text, dtype=np.uint8), 0
        while True:
            at = int(ends[word - 1]) if word else start
            word = count_words(data, at, ends, word, self._table, self._pool, self._used)
            if word == len(ends):
                return
            self._grow(int(ends[word]) - (int(ends[word - 1]) if word else start))

    def add(self, other: WordTable) -> None:
        """Add the counts of another table."""
        row = 0
        while True:
            row = add_rows(other._table, other._pool, row, self._table, self._pool, self._used)
            if row == len(other._table):
                return
            self._grow(int(other._table[row, LENGTH]))

    def _grow(self, word_bytes: int) -> None:
        """Make room for more rows, and for a word of this length in the pool."""
        if 2 * self._used[0] >= len(self._table):
            rows = (4 if len(self._table) < 1 << 20 else 2) * len(self._table)
            larger = np.zeros((rows, 4), dtype=np.int64)
            move_rows(self._table, larger)
            self._table = larger
        if self._used[1] + word_bytes > len(self._pool):
            pool = np.empty(2 * len(self._pool) + word_bytes, dtype=np.uint8)
            pool[: self._used[1]] = self._pool[: self._used[1]]
            self._pool = pool

    def words(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The pool of bytes (uint8), and offset, length and count (int64) of every word in it."""
        filled = self._table[self._table[:, LENGTH] > 0]
        return self._pool, *(np.ascontiguousarray(filled[:, column]) for column in (OFFSET, LENGTH, COUNT))
