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
from numba import int64, types, uint8, uint32, uint64, void

from llmcore.tokenizer._jit import inlined, kernel

HEADER = 3
"""Entries of a word before its tokens: the length, and the count in two halves."""
FILLER = 0xFFFFFFFF
"""Stands behind a word that has become shorter."""

_AHEAD = 6
"""A word is looked at so many words before its turn, so that it has come from memory by then."""

# Columns of the pair table; COUNT is 0 in a free row, and in the row of a merged pair, whose key is not 0.
KEY, COUNT, START, WORDS = range(4)

# Columns of what a step notes of each neighbour: summed count, number of places, where its list begins and where it goes on.
SUM, PLACES, FROM, NEXT = range(4)

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
    """A copy of a pair table with four times the rows, or twice when there are many."""
    larger = np.zeros(((4 if len(table) < 1 << 20 else 2) * len(table), 4), dtype=np.int64)
    for place in range(len(table)):
        if table[place, KEY] != 0:
            row = _row_of(larger, table[place, KEY])
            for column in range(4):
                larger[row, column] = table[place, column]
    return larger


@inlined
def _longer(lists, listed, needed):
    longer = np.empty(len(lists) + len(lists) // 2 + needed, dtype=np.uint32)
    longer[:listed] = lists[:listed]
    return longer


@inlined
def _key(left, right):
    """A pair as one number above 0."""
    return (int64(left) << 32 | int64(right)) + 1


@kernel(int64[:, ::1](uint32[::1]))
def count_pairs(words):
    """A table of all pairs in the words."""
    table = np.zeros((1 << 14, 4), dtype=np.int64)
    used, at = 0, 0
    while at < len(words):
        start, length = at + HEADER, int64(words[at])
        count = int64(words[at + 1]) | int64(words[at + 2]) << 32
        for place in range(start, start + length - 1):
            key = _key(words[place], words[place + 1])
            row = _row_of(table, key)
            if table[row, KEY] == 0:
                used += 1
                if 2 * used > len(table):
                    table = _enlarged(table)
                    row = _row_of(table, key)
                table[row, KEY] = key
            table[row, COUNT] += count
            if table[row, START] != start:  # here: the last word that the pair was seen in
                table[row, START] = start
                table[row, WORDS] += 1
        at = start + length
        while at < len(words) and words[at] == FILLER:
            at += 1
    return table


@kernel(types.Tuple((int64[:, ::1], int64))(int64[:, ::1], int64, int64))
def keep_frequent(table, floor, rows):
    """A table of so many rows with the pairs that are not rarer than a floor, and the length of their lists put end to end."""
    kept = np.zeros((rows, 4), dtype=np.int64)
    total = 0
    for place in range(len(table)):
        if table[place, COUNT] >= floor:
            row = _row_of(kept, table[place, KEY])
            kept[row, KEY], kept[row, COUNT], kept[row, START] = table[place, KEY], table[place, COUNT], total
            total += table[place, WORDS]
    return kept, total


@kernel(void(uint32[::1], int64[:, ::1], uint32[::1]))
def list_words(words, table, lists):
    """Write for every pair of the table the words that hold it, one stretch after another."""
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


@inlined
def _is_better(heap, first, second, tokens, spelling):
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
        x, y = spelling[tokens[a, OFFSET] + place], spelling[tokens[b, OFFSET] + place]
        if x != y:
            return x > y
    return tokens[a, LENGTH] > tokens[b, LENGTH]


@inlined
def _swap(heap, first, second):
    for column in range(2):
        heap[first, column], heap[second, column] = heap[second, column], heap[first, column]


@inlined
def _sift_up(heap, place, tokens, spelling):
    while place > 0 and _is_better(heap, place, (place - 1) >> 1, tokens, spelling):
        _swap(heap, place, (place - 1) >> 1)
        place = (place - 1) >> 1


@inlined
def _sift_down(heap, size, tokens, spelling):
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _is_better(heap, child + 1, child, tokens, spelling):
            child += 1
        if not _is_better(heap, child, place, tokens, spelling):
            break
        _swap(heap, place, child)
        place = child


@inlined
def _push(heap, size, count, key, tokens, spelling):
    """Add an entry to the heap, which has room for it."""
    heap[size, 0], heap[size, 1] = count, key
    _sift_up(heap, size, tokens, spelling)


@inlined
def _join_in_words(words, lists, start, end, left, right, joined, changes, near):
    """Join a pair in the words listed; write every neighbour with its word in `changes`, and sum them up in `near`.

    A neighbour before the pair has its id as its code, one after it id + side, and a pair right after a pair 2 * side, where
    `near` has 2 * side + 1 rows. Returns the changes, which may have moved, and how many there are.
    """
    side, noted, looked = len(near) >> 1, 0, uint32(0)
    for entry in range(start, end):
        at = int64(lists[entry])
        if entry + _AHEAD < end:
            looked += words[lists[entry + _AHEAD]]
        length, count = int64(words[at]), int64(words[at + 1]) | int64(words[at + 2]) << 32
        if noted + length > len(changes):
            larger = np.empty((2 * len(changes) + length, 2), dtype=np.uint32)
            larger[:noted] = changes[:noted]
            changes = larger
        first = at + HEADER
        read, write, last = first, first, first + length
        while read < last:
            token = words[read]
            read += 1
            if token != left or read == last or words[read] != right:
                words[write] = token
                write += 1
                continue
            read += 1
            if write > first:
                code = 2 * side if words[write - 1] == joined else int64(words[write - 1])
                changes[noted, 0], changes[noted, 1] = code, at
                near[code, SUM] += count
                near[code, PLACES] += 1
                noted += 1
            words[write] = joined
            write += 1
            if read < last and (words[read] != left or read + 1 == last or words[read + 1] != right):
                code = side + int64(words[read])
                changes[noted, 0], changes[noted, 1] = code, at
                near[code, SUM] += count
                near[code, PLACES] += 1
                noted += 1
        if write < last:
            words[at] = write - first
            for place in range(write, last):
                words[place] = FILLER
    near[0, FROM] = looked  # without a use the compiler would leave the looks out; `_record` overwrites it
    return changes, noted


@inlined
def _pair_before_and_after(code, side, left, right, joined):
    """The pair that a change takes away and the one that it brings."""
    if code < side:
        return _key(code, left), _key(code, joined)
    if code < 2 * side:
        return _key(right, code - side), _key(joined, code - side)
    return _key(right, left), _key(joined, joined)


@inlined
def _spell(tokens, spelling, left, right, joined):
    """Write the bytes of a joined token; the spelling may move."""
    end = tokens[joined - 1, OFFSET] + tokens[joined - 1, LENGTH]
    size = tokens[left, LENGTH] + tokens[right, LENGTH]
    if end + size > len(spelling):
        larger = np.empty(2 * len(spelling) + size, dtype=np.uint8)
        larger[:end] = spelling[:end]
        spelling = larger
    tokens[joined, OFFSET], tokens[joined, LENGTH] = end, size
    place = end
    for part in (left, right):
        for source in range(tokens[part, OFFSET], tokens[part, OFFSET] + tokens[part, LENGTH]):
            spelling[place] = spelling[source]
            place += 1
    prefix = uint64(0)
    for place in range(8):
        prefix = prefix << uint64(8) | (uint64(spelling[end + place]) if place < size else uint64(0))
    tokens[joined, PREFIX] = int64(prefix)
    return spelling


@inlined
def _record(changes, noted, near, left, right, joined, floor, table, lists, listed, heap, size, tokens, spelling):
    """Take the pairs that a step has made rarer down in the table, and record those it has made, unless they are too rare.

    Returns how far the lists and the heap are filled, and how many rows of the table are new.
    """
    side, rows = len(near) >> 1, 0
    new = np.empty((min(noted, len(near)), 2), dtype=np.int64)
    for change in range(noted):
        code, word = int64(changes[change, 0]), changes[change, 1]
        count = near[code, SUM]
        if count > 0:  # the first of its kind
            gone, born = _pair_before_and_after(code, side, left, right, joined)
            row = _row_of(table, gone)
            if table[row, KEY] != 0:
                table[row, COUNT] -= count
            near[code, FROM] = near[code, NEXT] = -1
            if count >= floor:
                row = _row_of(table, born)
                table[row, KEY], table[row, COUNT], table[row, START] = born, count, listed
                near[code, FROM] = near[code, NEXT] = listed
                listed += near[code, PLACES]
                new[rows, 0], new[rows, 1] = code, row
                rows += 1
                _push(heap, size, count, born, tokens, spelling)
                size += 1
            near[code, SUM] = near[code, PLACES] = 0
        place = near[code, NEXT]
        if place >= 0 and (place == near[code, FROM] or lists[place - 1] != word):
            lists[place] = word
            near[code, NEXT] = place + 1
    for place in range(rows):
        code, row = new[place, 0], new[place, 1]
        table[row, WORDS] = near[code, NEXT] - near[code, FROM]
    return listed, size, rows


@kernel(
    types.Tuple((int64, uint8[::1]))(
        uint32[::1], int64[:, ::1], uint32[::1], int64, int64[:, ::1], uint8[::1], int64[:, ::1], int64
    )
)
def merge_above(words, table, lists, floor, tokens, spelling, merges, done):
    """Merge until `merges` is full or every pair left is rarer than the floor; merges done, and the spelling, which may move."""
    near = np.zeros((2 * len(tokens) + 1, 4), dtype=np.int64)
    changes = np.empty((1 << 12, 2), dtype=np.uint32)
    heap = np.empty((len(table), 2), dtype=np.int64)
    size, used, listed = 0, 0, len(lists)
    for row in range(len(table)):
        if table[row, KEY] != 0:
            _push(heap, size, table[row, COUNT], table[row, KEY], tokens, spelling)
            size += 1
            used += 1
    while done < len(merges) and size > 0:
        count, key = heap[0, 0], heap[0, 1]
        row = _row_of(table, key)
        if table[row, COUNT] != count and table[row, COUNT] >= floor:
            heap[0, 0] = table[row, COUNT]  # rarer than when it was pushed: put it where it belongs
            _sift_down(heap, size, tokens, spelling)
            continue
        size -= 1
        heap[0, 0], heap[0, 1] = heap[size, 0], heap[size, 1]
        _sift_down(heap, size, tokens, spelling)
        if table[row, COUNT] != count:
            continue
        left, right, joined = (key - 1) >> 32, (key - 1) & 0xFFFFFFFF, 256 + done
        merges[done, 0], merges[done, 1] = left, right
        done += 1
        spelling = _spell(tokens, spelling, left, right, joined)
        start = table[row, START]
        end = start + table[row, WORDS]
        table[row, COUNT] = 0
        changes, noted = _join_in_words(words, lists, start, end, left, right, joined, changes, near)
        kinds = min(noted, 2 * (256 + done) + 1)
        if listed + noted > len(lists):
            lists = _longer(lists, listed, noted)
        if 2 * (used + kinds) > len(table):
            table = _enlarged(table)
        if size + kinds > len(heap):
            larger = np.empty((2 * len(heap) + kinds, 2), dtype=np.int64)
            larger[:size] = heap[:size]
            heap = larger
        listed, size, rows = _record(
            changes, noted, near, left, right, joined, floor, table, lists, listed, heap, size, tokens, spelling
        )
        used += rows
    return done, spelling


def learn_merges(
    pool: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, counts: np.ndarray, num_merges: int, spread: int = 64
) -> list[tuple[bytes, bytes]]:
    """The merges that `bpe.learn_merges` finds, of words given as in `WordTable.words`.

    `spread` is how far the floor lies below the most frequent pair, as a ratio; it changes the time and not the merges.
    """
    words = lay_out(pool, offsets, lengths, counts)
    merges = np.empty((num_merges, 2), dtype=np.int64)
    tokens = np.zeros((256 + num_merges, 3), dtype=np.int64)
    tokens[:256, PREFIX] = (np.arange(256, dtype=np.uint64) << np.uint64(56)).view(np.int64)
    tokens[:256, OFFSET], tokens[:256, LENGTH] = np.arange(256), 1
    spelling = np.concatenate([np.arange(256, dtype=np.uint8), np.empty(8 * num_merges, dtype=np.uint8)])
    done, floor = 0, 0
    while done < num_merges and floor != 1:
        table = count_pairs(words)
        counts = table[table[:, KEY] != 0, COUNT]
        floor = _floor(counts, num_merges - done, spread)
        rows = 1 << max(10, 2 + int((counts >= floor).sum()).bit_length())
        table, listed = keep_frequent(table, floor, rows)
        lists = np.empty(listed, dtype=np.uint32)
        list_words(words, table, lists)
        done, spelling = merge_above(words, table, lists, floor, tokens, spelling, merges, done)
    spelled, found = [bytes([byte]) for byte in range(256)], []
    for left, right in merges[:done].tolist():
        found.append((spelled[left], spelled[right]))
        spelled.append(spelled[left] + spelled[right])
    return found


def _floor(counts: np.ndarray, wanted: int, spread: int) -> int:
    """The floor of a round: a share of the highest count, but no lower than a guess of where the last merge wanted will be.

    Merges bring new pairs and make others rarer; about half the count of the pair at the rank wanted has proved a good guess.
    """
    if len(counts) == 0:
        return 1
    lowest = int(np.partition(counts, -wanted)[-wanted]) // 2 if wanted < len(counts) else 0
    return max(1, lowest, int(counts.max()) // spread)
