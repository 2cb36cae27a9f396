"""Encoding in compiled code: a cache of words in front of the merge of lowest rank.

Most words of a text have been seen before, so the cache decides the speed. It is the table of `_words` with ids in place of counts,
limited in size and emptied when full. A word that is not in it is merged as in `bpe.encode_word`: short words by looking for the
lowest rank again and again, long ones with a heap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numba import int32, int64, types, uint8, uint64, void

from llmcore.tokenizer._jit import BYTES, inlined, kernel
from llmcore.tokenizer._scan import SEPARATOR, has_scanner, word_ends
from llmcore.tokenizer.bpe import LONG_WORD_BYTES, Pair
from llmcore.tokenizer.pretokenize import Pattern

# Columns of the cache; LENGTH is 0 in a free row. IDS holds the id itself where NUMBER is 1, else where the ids begin.
KEY, OFFSET, LENGTH, NUMBER, IDS = range(5)

# Columns of the pairs; KEY is -1 in a free row. VALUE is the rank above the joined id, so that the least value has the least rank.
VALUE = 1

_NO_VALUE = 0x7FFFFFFFFFFFFFFF
_BATCH = 64
_CACHED_BYTES = 64
"""Longer words are seldom seen twice and are not cached."""
_MOST_ROWS = 1 << 17


@inlined
def _hash_row(key, mask):
    return int64(uint64(key) * uint64(0x9E3779B97F4A7C15) >> uint64(32)) & mask


@inlined
def _word_key(data, start, end):
    """Up to 7 bytes are packed with their number, which no other word has; longer words are hashed to a number below 0."""
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


@kernel(void(int64[:, ::1], int64[:, ::1]))
def fill_pairs(merges, pairs):
    """Put merges, rows of (left id, right id, joined id) in order of rank, into an empty table of pairs."""
    mask = len(pairs) - 1
    for rank in range(len(merges)):
        key = merges[rank, 0] << 32 | merges[rank, 1]
        row = _hash_row(key, mask)
        while pairs[row, KEY] != -1:
            row = (row + 1) & mask
        pairs[row, KEY], pairs[row, VALUE] = key, rank << 32 | merges[rank, 2]


@inlined
def _value_of(pairs, left, right):
    """Rank and joined id of a pair, _NO_VALUE when it is never merged."""
    key, mask = int64(left) << 32 | int64(right), len(pairs) - 1
    row = _hash_row(key, mask)
    while pairs[row, KEY] != key:
        if pairs[row, KEY] == -1:
            return _NO_VALUE
        row = (row + 1) & mask
    return pairs[row, VALUE]


@kernel(void(int32[::1], int64[:, ::1], int64[:, ::1]))
def fill_bytes(byte_ids, pairs, byte_pairs):
    """Write the values of all pairs of bytes, with which every word begins, into a square table."""
    for left in range(256):
        for right in range(256):
            byte_pairs[left, right] = _value_of(pairs, byte_ids[left], byte_ids[right])


@inlined
def _merge_short(pairs, parts, values, size):
    """Merge `size` parts, whose pairs have these values, in place by lowest rank, the leftmost among equals; how many are left."""
    while size > 1:
        best = 0
        for place in range(1, size - 1):
            if values[place] < values[best]:
                best = place
        if values[best] == _NO_VALUE:
            break
        parts[best] = values[best] & 0xFFFFFFFF
        size -= 1
        for place in range(best + 1, size):
            parts[place], values[place] = parts[place + 1], values[place + 1]
        if best > 0:
            values[best - 1] = _value_of(pairs, parts[best - 1], parts[best])
        if best + 1 < size:
            values[best] = _value_of(pairs, parts[best], parts[best + 1])
    return size


@inlined
def _heap_push(heap, size, value):
    place = size
    while place > 0 and heap[(place - 1) >> 1] > value:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = value


@inlined
def _heap_pop(heap, size):
    """Take the smallest of `size` values out of the heap."""
    smallest, value, place = heap[0], heap[size - 1], 0
    while 2 * place + 1 < size - 1:
        child = 2 * place + 1
        if child + 1 < size - 1 and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value
    return smallest


@kernel(int64(int64[:, ::1], int32[::1]))
def merge_long(pairs, parts):
    """As `_merge_short` in time n log n: a heap of rank and place over a linked list, old entries passed over."""
    size = len(parts)
    after, before = np.arange(1, size + 1), np.arange(-1, size - 1)
    values = np.full(size, _NO_VALUE, dtype=np.int64)
    heap = np.empty(3 * size, dtype=np.int64)  # every merge takes one entry out for good and puts at most two in
    heaped = 0
    for place in range(size - 1):
        values[place] = _value_of(pairs, parts[place], parts[place + 1])
        if values[place] != _NO_VALUE:
            _heap_push(heap, heaped, values[place] >> 32 << 32 | place)
            heaped += 1
    while heaped > 0:
        entry = _heap_pop(heap, heaped)
        heaped -= 1
        at = entry & 0xFFFFFFFF
        if values[at] >> 32 != entry >> 32:
            continue
        gone = after[at]
        parts[at] = values[at] & 0xFFFFFFFF
        parts[gone], values[gone] = -1, _NO_VALUE
        after[at] = after[gone]
        if after[at] < size:
            before[after[at]] = at
        for place in (before[at], at):
            if place >= 0:
                values[place] = (
                    _value_of(pairs, parts[place], parts[after[place]]) if after[place] < size else _NO_VALUE
                )
                if values[place] != _NO_VALUE:
                    _heap_push(heap, heaped, values[place] >> 32 << 32 | place)
                    heaped += 1
    left = 0
    for place in range(size):
        if parts[place] >= 0:
            parts[left] = parts[place]
            left += 1
    return left


@kernel(
    types.UniTuple(int64, 2)(
        BYTES,
        int64,
        int32[::1],
        int64,
        int32[::1],
        int64[:, ::1],
        int64[:, ::1],
        int64[:, ::1],
        uint8[::1],
        int32[::1],
        int64[::1],
        int32[::1],
    )
)
def encode_words(data, at, ends, word, byte_ids, byte_pairs, pairs, cache, pool, cached_ids, used, out):
    """Write the ids of the words from number `word` on, which begins at `at`.

    Returns the number of the first word that found the cache full, and how many ids are written. `used` holds how many rows, bytes
    and ids of the cache are in use.
    """
    mask, looked, written = len(cache) - 1, 0, 0
    keys = np.empty(_BATCH, dtype=np.int64)
    parts, values = np.empty(LONG_WORD_BYTES, dtype=np.int32), np.empty(LONG_WORD_BYTES, dtype=np.int64)
    for first in range(word, len(ends), _BATCH):
        last, start = min(first + _BATCH, len(ends)), at
        for number in range(first, last):
            keys[number - first] = _word_key(data, start, ends[number])
            start = ends[number]
        for number in range(first, last):
            looked += cache[_hash_row(keys[number - first], mask), KEY]
        for number in range(first, last):
            key, size = keys[number - first], ends[number] - at
            row = _hash_row(key, mask)
            while cache[row, LENGTH] != 0:
                if cache[row, KEY] == key:
                    if key >= 0:
                        break
                    offset, place = cache[row, OFFSET], 0
                    if cache[row, LENGTH] == size:
                        while place < size and pool[offset + place] == data[at + place]:
                            place += 1
                    if place == size:
                        break
                row = (row + 1) & mask
            count = cache[row, NUMBER]
            if cache[row, LENGTH] != 0:
                if count == 1:
                    out[written] = cache[row, IDS]
                else:
                    begin = cache[row, IDS]
                    for place in range(count):
                        out[written + place] = cached_ids[begin + place]
                written += count
                at = ends[number]
                continue
            if size < LONG_WORD_BYTES:
                for place in range(size):
                    parts[place] = byte_ids[data[at + place]]
                for place in range(size - 1):
                    values[place] = byte_pairs[data[at + place], data[at + place + 1]]
                count = _merge_short(pairs, parts, values, size)
                for place in range(count):
                    out[written + place] = parts[place]
            else:
                for place in range(size):
                    out[written + place] = byte_ids[data[at + place]]
                count = merge_long(pairs, out[written : written + size])
            if size <= _CACHED_BYTES:
                if 2 * used[0] >= len(cache) or used[1] + size > len(pool) or used[2] + count > len(cached_ids):
                    used[3] = looked
                    return number, written
                cache[row, KEY], cache[row, LENGTH], cache[row, NUMBER] = key, size, count
                cache[row, OFFSET], cache[row, IDS] = used[1], used[2] if count > 1 else out[written]
                for place in range(size):
                    pool[used[1] + place] = data[at + place]
                for place in range(count):
                    cached_ids[used[2] + place] = out[written + place]
                used[0] += 1
                used[1] += size
                used[2] += count
            written += count
            at = ends[number]
    used[3] = looked  # without a use the compiler would leave the looks out
    return len(ends), written


@kernel(void(BYTES, int32[::1], int32[::1], int64[:, ::1], int32[::1]))
def merge_to_one(data, ends, byte_ids, pairs, ids):
    """For every word the id that merging makes of all of it, or -1 when more than one is left."""
    at = 0
    for number in range(len(ends)):
        parts = byte_ids[data[at : ends[number]]]
        ids[number] = parts[0] if merge_long(pairs, parts) == 1 else -1
        at = ends[number]


@kernel(void(BYTES, int32[::1], int32[::1], int64[:, ::1], uint8[::1], int64[::1]))
def remember(data, ends, ids, cache, pool, used):
    """Put words into an empty cache that has room for them, each with the one id it has."""
    at, mask = 0, len(cache) - 1
    for number in range(len(ends)):
        key, size = _word_key(data, at, ends[number]), ends[number] - at
        row = _hash_row(key, mask)
        while cache[row, LENGTH] != 0:
            row = (row + 1) & mask
        cache[row, KEY], cache[row, LENGTH], cache[row, NUMBER], cache[row, IDS] = key, size, 1, ids[number]
        cache[row, OFFSET] = used[1]
        pool[used[1] : used[1] + size] = data[at : ends[number]]
        used[0] += 1
        used[1] += size
        at = ends[number]


class Encoder:
    """The merges of one tokenizer in tables, and a cache of words. Not for two threads at once: use `twin`."""

    def __init__(self, token_ids: Mapping[bytes, int], merges: Sequence[Pair], whole_words: bool) -> None:
        self._byte_ids = np.array([token_ids[bytes([byte])] for byte in range(256)], dtype=np.int32)
        rows = np.array(
            [(token_ids[left], token_ids[right], token_ids[left + right]) for left, right in merges], dtype=np.int64
        ).reshape(-1, 3)
        self._pairs = np.full((1 << (2 * len(rows) + 2).bit_length(), 2), -1, dtype=np.int64)
        fill_pairs(rows, self._pairs)
        self._byte_pairs = np.empty((256, 256), dtype=np.int64)
        fill_bytes(self._byte_ids, self._pairs, self._byte_pairs)
        self._known = b"", np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32)
        if whole_words:
            self._known = self._words_that_merging_misses(token_ids)
        self.empty_cache()

    def _words_that_merging_misses(self, token_ids: Mapping[bytes, int]) -> tuple[bytes, np.ndarray, np.ndarray]:
        """The tokens that merging their own bytes does not give, joined, with their ends and ids."""
        tokens, ids = list(token_ids), np.array(list(token_ids.values()), dtype=np.int32)
        lengths = np.array(list(map(len, tokens)), dtype=np.int32)
        merged = np.empty_like(ids)
        data = np.frombuffer(b"".join(tokens), dtype=np.uint8)
        merge_to_one(data, np.cumsum(lengths, dtype=np.int32), self._byte_ids, self._pairs, merged)
        missed = np.flatnonzero(merged != ids)
        return b"".join(tokens[place] for place in missed), np.cumsum(lengths[missed], dtype=np.int32), ids[missed]

    def twin(self) -> Encoder:
        """An encoder that shares the tables, which are never written, and has a cache of its own."""
        other = object.__new__(Encoder)
        other._byte_ids, other._byte_pairs = self._byte_ids, self._byte_pairs
        other._pairs, other._known = self._pairs, self._known
        other.empty_cache()
        return other

    def encode(self, texts: list[bytes], pattern: Pattern) -> list[list[int]]:
        """The ids of each of some UTF-8 texts without special tokens."""
        if len(texts) == 1 or not has_scanner(pattern):
            return [self._encode_text(text, pattern).tolist() for text in texts]
        ids = self._encode_text(bytes([SEPARATOR]).join(texts), pattern)
        found, start = [], 0
        for end in np.flatnonzero(ids == self._byte_ids[SEPARATOR]).tolist():
            found.append(ids[start:end].tolist())
            start = end + 1
        return [*found, ids[start:].tolist()]

    def _encode_text(self, text: bytes, pattern: Pattern) -> np.ndarray:
        ids, start = [], 0
        for ends in word_ends(text, pattern):
            ids.append(self._encode_words(text, start, ends))
            start = int(ends[-1])
        return np.concatenate(ids) if ids else np.empty(0, dtype=np.int32)

    def _encode_words(self, text: bytes, start: int, ends: np.ndarray) -> np.ndarray:
        data, word, written = np.frombuffer(text, dtype=np.uint8), 0, 0
        out = np.empty(int(ends[-1]) - start, dtype=np.int32)
        while True:
            at = int(ends[word - 1]) if word else start
            tables = (self._byte_ids, self._byte_pairs, self._pairs, self._cache, self._pool, self._ids, self._used)
            word, count = encode_words(data, at, ends, word, *tables, out[written:])
            written += count
            if word == len(ends):
                return out[:written]
            self.empty_cache(min(4 * len(self._cache), _MOST_ROWS))

    def empty_cache(self, rows: int = 1 << 12) -> None:
        """A new cache of so many rows, or of as many as the words that it must hold need."""
        words, ends, ids = self._known
        rows = max(rows, 1 << (8 * len(ids)).bit_length())
        self._cache = np.zeros((rows, 5), dtype=np.int64)
        self._pool = np.empty(8 * rows + len(words), dtype=np.uint8)
        self._ids = np.empty(4 * rows, dtype=np.int32)
        self._used = np.zeros(4, dtype=np.int64)
        remember(np.frombuffer(words, dtype=np.uint8), ends, ids, self._cache, self._pool, self._used)
