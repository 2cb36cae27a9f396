"""Learning merges in compiled code: the algorithm of `bpe.learn_merges`, laid out for the processor's caches.

Words lie one after another in one array as [length, count, tokens...] and shrink in place. A pair has one row of a hash table and
one stretch of a list that says which words it was born in; words that have lost it since are met and passed over. The best pair
comes from a lazy max-heap, as in `bpe`.

Two thoughts save most of the work. A pair of tokens can only be born in the step that makes the younger of the two, so its count
never grows afterwards; pairs born rarer than a floor are therefore not recorded at all until every pair above the floor is
merged, and then everything is counted anew with a lower floor. And in one step all changes concern neighbours of one pair, so
they are summed in an array by neighbour before the table is touched, once for each neighbour instead of once for each place.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, int64, types, uint8, uint32, uint64

from llmcore.tokenizer._jit import inlined, kernel

HEADER = 3
"""Entries of a word before its tokens: the length, and the count in two halves."""

# Columns of the pair table; COUNT is 0 in a free row, and in the row of a merged pair, whose key is not 0.
KEY, COUNT, START, WORDS = range(4)

# Columns of the tokens: first 8 bytes as a big-endian number, and where all bytes are.
PREFIX, OFFSET, LENGTH = range(3)


@kernel(uint32[::1](uint8[::1], int64[::1], int64[::1], int64[::1]))
def lay_out(pool, offsets, lengths, counts):
    """The words array of all words of at least two bytes; tokens are byte values."""
    size = 0
    for word in range(len(offsets)):
        if lengths[word] > 1:
            size += HEADER + lengths[word]
    words = np.empty(size, dtype=np.uint32)
    at = 0
    for word in range(len(offsets)):
        if lengths[word] > 1:
            words[at] = lengths[word]
            words[at + 1], words[at + 2] = counts[word] & 0xFFFFFFFF, counts[word] >> 32
            at += HEADER
            for place in range(offsets[word], offsets[word] + lengths[word]):
                words[at] = pool[place]
                at += 1
    return words


@inlined
def _row_of(table, key):
    """The row of a pair, or the free row where it belongs."""
    mask = len(table) - 1
    row = int64(uint64(key) * uint64(0x9E3779B97F4A7C15) >> uint64(30)) & mask
    while table[row, KEY] != key and table[row, KEY] != 0:
        row = (row + 1) & mask
    return row


@inlined
def _enlarged(table):
    """A copy of a pair table with four times the rows."""
    larger = np.zeros((4 * len(table), 4), dtype=np.int64)
    for place in range(len(table)):
        if table[place, KEY] != 0:
            row = _row_of(larger, table[place, KEY])
            for column in range(4):
                larger[row, column] = table[place, column]
    return larger


@inlined
def _key(left, right):
    """A pair as one number above 0."""
    return (int64(left) << 32 | int64(right)) + 1


@kernel(int64[:, ::1](uint32[::1], int64))
def count_pairs(words, floor):
    """A pair table of the words: counts, and in how many words, with the pairs rarer than the floor left out."""
    table = np.zeros((1 << 14, 4), dtype=np.int64)
    used, at = 0, 0
    while at < len(words):
        start, length = at + HEADER, int64(words[at])
        count = int64(words[at + 1]) | int64(words[at + 2]) << 32
        for place in range(start, start + length - 1):
            key = _key(words[place], words[place + 1])
            row = _row_of(table, key)
            if table[row, KEY] == 0:
                table[row, KEY] = key
                used += 1
                if 2 * used > len(table):
                    table = _enlarged(table)
                    row = _row_of(table, key)
            table[row, COUNT] += count
            if table[row, START] != start:  # here: the last word that the pair was seen in
                table[row, START] = start
                table[row, WORDS] += 1
        at = start + length
        while at < len(words) and words[at] == FILLER:
            at += 1
    kept = 0
    for row in range(len(table)):
        kept += table[row, COUNT] >= floor
    size = 1 << 10
    while size < 4 * kept:
        size *= 2
    compact = np.zeros((size, 4), dtype=np.int64)
    total = 0
    for place in range(len(table)):
        if table[place, KEY] != 0 and table[place, COUNT] >= floor:
            row = _row_of(compact, table[place, KEY])
            compact[row, KEY], compact[row, COUNT] = table[place, KEY], table[place, COUNT]
            compact[row, START], compact[row, WORDS] = total, 0
            total += table[place, WORDS]
    return compact


@kernel(uint32[::1](uint32[::1], int64[:, ::1], int64))
def list_words(words, table, size):
    """For every pair of the table the words that hold it, one stretch after another; `size` is the sum of their lengths."""
    lists = np.empty(size, dtype=np.uint32)
    at = 0
    while at < len(words):
        start, length = at + HEADER, int64(words[at])
        for place in range(start, start + length - 1):
            row = _row_of(table, _key(words[place], words[place + 1]))
            if table[row, KEY] != 0:
                end = table[row, START] + table[row, WORDS]
                if table[row, WORDS] == 0 or lists[end - 1] != at:
                    lists[end] = at
                    table[row, WORDS] += 1
        at = start + length
        while at < len(words) and words[at] == FILLER:
            at += 1
    return lists


@inlined
def _is_better(heap, first, second, tokens, pool):
    """Whether one entry of the heap comes before another: higher count, else the greater pair of bytes."""
    if heap[first, 0] != heap[second, 0]:
        return heap[first, 0] > heap[second, 0]
    a, b = (heap[first, 1] - 1) >> 32, (heap[second, 1] - 1) >> 32
    if a == b:
        a, b = (heap[first, 1] - 1) & 0xFFFFFFFF, (heap[second, 1] - 1) & 0xFFFFFFFF
    if tokens[a, PREFIX] != tokens[b, PREFIX]:
        return uint64(tokens[a, PREFIX]) > uint64(tokens[b, PREFIX])
    shorter = min(tokens[a, LENGTH], tokens[b, LENGTH])
    for place in range(shorter):
        x, y = pool[tokens[a, OFFSET] + place], pool[tokens[b, OFFSET] + place]
        if x != y:
            return x > y
    return tokens[a, LENGTH] > tokens[b, LENGTH]


@inlined
def _swap(heap, first, second):
    for column in range(2):
        heap[first, column], heap[second, column] = heap[second, column], heap[first, column]


@inlined
def _sift_up(heap, place, tokens, pool):
    while place > 0 and _is_better(heap, place, (place - 1) >> 1, tokens, pool):
        _swap(heap, place, (place - 1) >> 1)
        place = (place - 1) >> 1


@inlined
def _sift_down(heap, size, tokens, pool):
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _is_better(heap, child + 1, child, tokens, pool):
            child += 1
        if not _is_better(heap, child, place, tokens, pool):
            break
        _swap(heap, place, child)
        place = child


@inlined
def _merge_in_words(words, lists, start, end, left, right, joined, changes, delta, touched):
    """Join a pair in the words of a stretch of the lists; note in `changes` each neighbour and its word, and sum their counts.

    A neighbour before the pair is its id, one after it the id plus `side`, and a second pair that follows at once 2 * side.
    Returns changes (which may have moved), how many, and how many different neighbours.
    """
    side = len(delta) // 2
    noted, kinds = 0, 0
    for entry in range(start, end):
        at = int64(lists[entry])
        length, count = int64(words[at]), int64(words[at + 1]) | int64(words[at + 2]) << 32
        if noted + length + 1 > len(changes):
            larger = np.empty((2 * len(changes) + length, 2), dtype=np.uint32)
            larger[:noted] = changes[:noted]
            changes = larger
        first = at + HEADER
        last, read, write = first + length, first, first
        while read < last:
            token = words[read]
            if token != left or read + 1 == last or words[read + 1] != right:
                words[write] = token
                write += 1
                read += 1
                continue
            read += 2
            before = int64(words[write - 1]) if write > first else -1
            words[write] = joined
            write += 1
            for neighbour in (before, int64(words[read]) if read < last else -1):
                pass
        for place in range(write, last):
            words[place] = FILLER
        words[at] = write - first
    return changes, noted, kinds
