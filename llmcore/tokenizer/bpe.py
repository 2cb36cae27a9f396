"""Byte-level BPE in plain Python: the algorithm as a lesson reads it, and the oracle of the compiled code.

Three steps of a ladder: `merge_steps` recounts every pair after every merge; `learn_merges` finds the same merges by changing
only the counts that a merge changes; `_merge` does the latter in compiled code on large corpora.

A token is its bytes. Learning from bytes never makes the same bytes in two ways: until two tokens become one, no merge has
crossed the edges of the stretch that they cover, so equal stretches have equal histories.

Source: Neural Machine Translation of Rare Words with Subword Units, arXiv:1508.07909, algorithm 1; on bytes: GPT-2.
Taught in: 01_tokenizer_unicode.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Token = bytes
Pair = tuple[Token, Token]
Word = tuple[Token, ...]

LONG_WORD_BYTES = 128
"""Words from this length on are encoded with a heap: the plain scan takes time quadratic in the length."""


def split_bytes(word: bytes) -> Word:
    """The word as single bytes, the tokens that BPE starts from.

    >>> split_bytes("é!".encode())
    (b'\\xc3', b'\\xa9', b'!')
    """
    return tuple(bytes([byte]) for byte in word)


def count_pairs(words: Mapping[Word, int]) -> Counter[Pair]:
    """How often each pair of neighbours occurs, each word counted as often as it occurs.

    >>> count_pairs({(b"a", b"a", b"a"): 2, (b"a", b"b"): 1})
    Counter({(b'a', b'a'): 4, (b'a', b'b'): 1})

    Taught in: 01_tokenizer_unicode.
    """
    counts: Counter[Pair] = Counter()
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def merge_word(word: Word, pair: Pair) -> Word:
    """The word with every occurrence of the pair joined, from left to right, none overlapping.

    >>> merge_word((b"a", b"a", b"a"), (b"a", b"a"))
    (b'aa', b'a')

    Taught in: 01_tokenizer_unicode.
    """
    merged: list[Token] = []
    index = 0
    while index < len(word):
        if word[index : index + 2] == pair:
            merged.append(pair[0] + pair[1])
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return tuple(merged)


def rank_pairs(counts: Mapping[Pair, int], top: int | None = None) -> list[tuple[Pair, int]]:
    """The pairs with their counts, most frequent first; among equals the greater pair of bytes first.

    >>> rank_pairs({(b"a", b"b"): 2, (b"c", b"a"): 2, (b"z", b"z"): 1}, top=2)
    [((b'c', b'a'), 2), ((b'a', b'b'), 2)]
    """
    order = ((count, pair) for pair, count in counts.items() if count > 0)
    ranked = heapq.nlargest(top, order) if top is not None else sorted(order, reverse=True)
    return [(pair, count) for count, pair in ranked]


@dataclass(frozen=True)
class MergeStep:
    """One step of learning: what was merged, what it competed with, and the corpus after it."""

    number: int
    """Merges made so far, this one included: the first step is 1."""
    pair: Pair
    count: int
    """Occurrences of the pair before the merge."""
    top_pairs: list[tuple[Pair, int]]
    """The best pairs before the merge with their counts; the first is `pair`."""
    words: dict[Word, int]
    """The corpus after the merge: words as tuples of tokens, with their counts."""


def merge_steps(words: Mapping[Word, int] | Mapping[bytes, int], num_merges: int, top: int = 8) -> Iterator[MergeStep]:
    """The first `num_merges` steps of learning, one at a time, every pair recounted each time; ends early without pairs.

    Words are tuples of tokens, or bytes that are cut into single ones.

    >>> [(step.pair, step.count) for step in merge_steps({b"hug": 10, b"pug": 5, b"hugs": 5}, 2)]
    [((b'u', b'g'), 20), ((b'h', b'ug'), 15)]

    Taught in: 01_tokenizer_unicode.
    """
    corpus = {split_bytes(word) if isinstance(word, bytes) else word: count for word, count in words.items()}
    for number in range(1, num_merges + 1):
        ranked = rank_pairs(count_pairs(corpus), max(top, 1))
        if not ranked:
            return
        pair, count = ranked[0]
        merged: Counter[Word] = Counter()
        for word, occurrences in corpus.items():
            merged[merge_word(word, pair)] += occurrences
        corpus = dict(merged)
        yield MergeStep(number, pair, count, ranked, corpus)


def learn_merges(word_counts: Mapping[bytes, int], num_merges: int) -> list[Pair]:
    """The merges of BPE in order: the most frequent pair each time, among equals the greater pair of bytes.

    Only words that hold the merged pair change, so counts are kept and corrected, and an index says which words those are. The
    best pair comes from a heap whose entries are thrown away when they come up with an old count. Ends early without pairs.

    >>> learn_merges({b"hug": 10, b"pug": 5, b"hugs": 5}, 2)
    [(b'u', b'g'), (b'h', b'ug')]

    Taught in: 01_tokenizer_unicode.
    """
    words = [list(split_bytes(word)) for word in word_counts]
    occurrences = list(word_counts.values())
    counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += occurrences[index]
            words_with[pair].add(index)
    heap = [_heap_entry(pair, count) for pair, count in counts.items() if count > 0]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        negative_count, _, _, pair = heapq.heappop(heap)
        if counts[pair] != -negative_count:
            if counts[pair] > 0:  # the count has fallen since: put it where it belongs
                heapq.heappush(heap, _heap_entry(pair, counts[pair]))
            continue
        merges.append(pair)
        born: set[Pair] = set()
        for index in words_with.pop(pair):
            _merge_and_recount(words[index], pair, index, occurrences[index], counts, words_with, born)
        del counts[pair]
        for new_pair in born:
            if counts[new_pair] > 0:
                heapq.heappush(heap, _heap_entry(new_pair, counts[new_pair]))
    return merges


def _merge_and_recount(
    word: list[Token],
    pair: Pair,
    index: int,
    occurrences: int,
    counts: Counter[Pair],
    words_with: dict,
    born: set[Pair],
) -> None:
    """Join the pair in one word in place, correct the counts of the pairs at its sides, note the pairs that are new."""
    left, right = pair
    joined = left + right
    at = 0
    while at < len(word) - 1:
        if word[at] == left and word[at + 1] == right:
            if at > 0:
                counts[word[at - 1], left] -= occurrences
                new_pair = (word[at - 1], joined)
                counts[new_pair] += occurrences
                words_with[new_pair].add(index)
                born.add(new_pair)
            if at + 2 < len(word):
                counts[right, word[at + 2]] -= occurrences
                new_pair = (joined, word[at + 2])
                counts[new_pair] += occurrences
                words_with[new_pair].add(index)
                born.add(new_pair)
            word[at : at + 2] = [joined]
        at += 1


_COMPLEMENT = bytes(range(255, -1, -1))


def _heap_entry(pair: Pair, count: int) -> tuple[int, str, str, Pair]:
    """An entry that Python's smallest-first heap serves in our order: high count first, then the greater pair of bytes.

    Complemented bytes turn the order round; the closing mark, above every byte, puts a longer token before its beginning.
    """
    left, right = (token.translate(_COMPLEMENT).decode("latin-1") + "\u0100" for token in pair)
    return -count, left, right, pair


def encode_word(word: bytes, ranks: Mapping[Pair, int]) -> list[Token]:
    """The tokens of one word: of all pairs present the one learned first is merged, until none is left.

    >>> encode_word(b"abc", {(b"b", b"c"): 0, (b"a", b"b"): 1})
    [b'a', b'bc']

    Taught in: 01_tokenizer_unicode.
    """
    if len(word) >= LONG_WORD_BYTES:
        return _encode_long_word(word, ranks)
    tokens = list(split_bytes(word))
    none = len(ranks)
    while True:
        best, best_at = none, 0
        for at, pair in enumerate(pairwise(tokens)):
            rank = ranks.get(pair, none)
            if rank < best:
                best, best_at = rank, at
        if best == none:
            return tokens
        tokens[best_at : best_at + 2] = [tokens[best_at] + tokens[best_at + 1]]


def _encode_long_word(word: bytes, ranks: Mapping[Pair, int]) -> list[Token]:
    """As `encode_word` in time n log n: a heap of (rank, place) over a linked list of tokens, old entries thrown away."""
    tokens: list[Token | None] = list(split_bytes(word))
    after = list(range(1, len(tokens) + 1))
    before = list(range(-1, len(tokens) - 1))
    heap = [(ranks[pair], at, pair) for at, pair in enumerate(pairwise(tokens)) if pair in ranks]
    heapq.heapify(heap)

    def offer(at: int) -> None:
        if at >= 0 and after[at] < len(tokens):
            pair = (tokens[at], tokens[after[at]])
            if pair in ranks:
                heapq.heappush(heap, (ranks[pair], at, pair))

    while heap:
        _, at, pair = heapq.heappop(heap)
        follower = after[at]
        if tokens[at] != pair[0] or follower >= len(tokens) or tokens[follower] != pair[1]:
            continue
        tokens[at], tokens[follower] = pair[0] + pair[1], None
        after[at] = after[follower]
        if after[at] < len(tokens):
            before[after[at]] = at
        offer(before[at])
        offer(at)
    return [token for token in tokens if token is not None]


def compression_ratio(text: str, ids: Sequence[int]) -> float:
    """UTF-8 bytes of the text per token: higher is shorter for the model.

    >>> compression_ratio("汉字", [7, 8, 9])
    2.0

    Raises: ValueError when ids is empty.
    Taught in: 01_tokenizer_unicode.
    """
    if len(ids) == 0:
        raise ValueError("ids is empty, so bytes per token has no value; encode a text that is not empty")
    return len(text.encode("utf-8", "surrogatepass")) / len(ids)
