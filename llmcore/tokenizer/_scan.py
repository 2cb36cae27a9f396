"""The patterns of `pretokenize` as hand-written scanners over UTF-8.

A regular expression tries its alternatives one after another at every place; a scanner looks at the class of the next character
and knows which one will match. First every byte gets the class of its character, then runs of classes become words. Classes come
from the same `regex` module, so that both twins agree on every character.

The loops are written out where functions would be shorter: a call that passes arrays costs more than a word does here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import regex
from numba import int32, int64, uint8, void

from llmcore.tokenizer._jit import BYTES, inlined, kernel
from llmcore.tokenizer.pretokenize import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    O200K_PATTERN,
    QWEN2_PATTERN,
    Pattern,
    words_of,
)

# Classes of characters, and the mark behind a text. Only the scanner of o200k tells marks and kinds of letters apart.
OTHER, NUMBER, SPACE, LINE_END, LETTER, UPPER, LOWER, MARK, END = range(9)

SEPARATOR = 0xFF
"""A byte that no UTF-8 text holds; put between texts it lets them be scanned in one go, and is a word of its own."""


@cache
def character_classes() -> np.ndarray:
    """The class of every code point as o200k needs it, uint8 of shape (0x110000,); LETTER is a letter without case."""
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    numbers = np.arange(0x110000, dtype="<u4")
    numbers[0xD800:0xE000] = 0xFFFD  # surrogates are no characters
    text = numbers.tobytes().decode("utf-32-le")
    kinds = (OTHER, NUMBER, SPACE, LINE_END, LETTER, UPPER, LOWER, MARK)
    groups = r"([\p{Cn}\p{Co}]+)|(\p{N}+)|([^\S\r\n]+)|([\r\n]+)|([\p{Lm}\p{Lo}]+)|([\p{Lu}\p{Lt}]+)|(\p{Ll}+)|(\p{M}+)"
    for match in regex.finditer(groups, text):
        classes[match.start() : match.end()] = kinds[match.lastindex - 1]
    return classes


@cache
def _coarse_classes(line_end: int) -> np.ndarray:
    """The classes with all letters in one, marks among the others, and line ends as a class of their own or as space."""
    merged = np.arange(END, dtype=np.uint8)
    merged[[UPPER, LOWER, MARK, LINE_END]] = LETTER, LETTER, OTHER, line_end
    return merged[character_classes()]


@kernel(void(BYTES, uint8[::1], uint8[::1]))
def classify(data, classes, kinds):
    """Write the class of its character for every byte of UTF-8 text, END for separators and at the end."""
    at, size = 0, len(data)
    while at < size:
        first = int64(data[at])
        if first < 0x80:
            kinds[at] = classes[first]
            at += 1
        elif first < 0xE0:
            kinds[at : at + 2] = classes[(first & 0x1F) << 6 | data[at + 1] & 0x3F]
            at += 2
        elif first < 0xF0:
            kind = classes[(first & 0x0F) << 12 | (int64(data[at + 1]) & 0x3F) << 6 | data[at + 2] & 0x3F]
            kinds[at], kinds[at + 1], kinds[at + 2] = kind, kind, kind
            at += 3
        elif first == SEPARATOR:
            kinds[at] = END
            at += 1
        else:
            high = (first & 0x07) << 18 | (int64(data[at + 1]) & 0x3F) << 12
            kinds[at : at + 4] = classes[high | (int64(data[at + 2]) & 0x3F) << 6 | data[at + 3] & 0x3F]
            at += 4
    kinds[size] = END


@inlined
def _contraction(data, at, any_case):
    """Length of 's 't 're 've 'm 'll 'd at a place, 0 when there is none."""
    end = len(data)
    if at + 1 >= end or data[at] != 0x27:
        return 0
    fold = 0x20 if any_case else 0
    first = data[at + 1] | fold
    if first == 0x73 or first == 0x74 or first == 0x6D or first == 0x64:
        return 2
    if at + 2 < end:
        second = data[at + 2] | fold
        if (first == 0x6C and second == 0x6C) or (second == 0x65 and (first == 0x76 or first == 0x72)):
            return 3
        if any_case and data[at + 1] == 0xC5 and data[at + 2] == 0xBF:  # U+017F, the long s, is an s without case
            return 3
    return 0


@inlined
def _space_end(data, kinds, at):
    r"""End of the word that `\s*[\r\n]+|\s+(?!\S)|\s+` matches at a place."""
    start, after_line = at, at
    while kinds[at] == SPACE or kinds[at] == LINE_END:
        at += 1
        if kinds[at - 1] == LINE_END:
            after_line = at
    if after_line > start:
        return after_line
    last = at - 1
    while data[last] & 0xC0 == 0x80:
        last -= 1
    return last if kinds[at] != END and last > start else at


@kernel(int64(BYTES, uint8[::1], int64, int32[::1]))
def scan_gpt2(data, kinds, at, ends):
    """Write the ends of the words of GPT2_PATTERN from a place on, as many as there are or as fit; how many."""
    count = 0
    while at < len(data) and count < len(ends):
        if kinds[at] == END:
            at += 1
            ends[count] = at
            count += 1
            continue
        start, kind = at, kinds[at]
        size = _contraction(data, at, False) if data[at] == 0x27 else 0
        if data[at] == 0x20 and kinds[at + 1] != END and kinds[at + 1] != SPACE:
            at += 1
            kind = kinds[at]
        if size:
            at += size
        else:
            while kinds[at] == kind:
                at += 1
        if kind == SPACE and kinds[at] != END:  # the last white space goes to the next word
            last = at - 1
            while data[last] & 0xC0 == 0x80:
                last -= 1
            at = last if last > start else at
        ends[count] = at
        count += 1
    return count


@kernel(int64(BYTES, uint8[::1], int64, int32[::1], int64))
def scan_cl100k(data, kinds, at, ends, digits):
    """As `scan_gpt2` for CL100K_PATTERN, with at most `digits` digits in a word."""
    count = 0
    while at < len(data) and count < len(ends):
        if kinds[at] == END:
            at += 1
            ends[count] = at
            count += 1
            continue
        kind = kinds[at]
        after = at + 1
        while kinds[after] != END and data[after] & 0xC0 == 0x80:
            after += 1
        size = _contraction(data, at, True) if data[at] == 0x27 else 0
        if size:
            at += size
        elif kind == NUMBER:
            left = digits
            while kinds[at] == NUMBER and (left > 0 or data[at] & 0xC0 == 0x80):
                left -= data[at] & 0xC0 != 0x80
                at += 1
        elif kind == LETTER or (kind != LINE_END and kinds[after] == LETTER):
            at = after
            while kinds[at] == LETTER:
                at += 1
        elif kind == OTHER or (data[at] == 0x20 and kinds[after] == OTHER):
            at = after
            while kinds[at] == OTHER:
                at += 1
            while kinds[at] == LINE_END:
                at += 1
        else:
            at = _space_end(data, kinds, at)
        ends[count] = at
        count += 1
    return count


@inlined
def _cased_end(kinds, start):
    """End of capitals, then small letters, of which the latter must be there; letters without case and marks count as both.

    Capitals only: the end of the last character in them that counts as both, or -1.
    """
    at, found = start, -1
    while kinds[at] == UPPER or kinds[at] == LETTER or kinds[at] == MARK:
        at += 1
        if kinds[at - 1] != UPPER:
            found = at
    while kinds[at] == LOWER or kinds[at] == LETTER or kinds[at] == MARK:
        at += 1
        found = at
    return found


@kernel(int64(BYTES, uint8[::1], int64, int32[::1]))
def scan_o200k(data, kinds, at, ends):
    """As `scan_gpt2` for O200K_PATTERN."""
    count = 0
    while at < len(data) and count < len(ends):
        if kinds[at] == END:
            at += 1
            ends[count] = at
            count += 1
            continue
        kind, end = kinds[at], -1
        after = at + 1
        while kinds[after] != END and data[after] & 0xC0 == 0x80:
            after += 1
        if kind != NUMBER and kind != LINE_END:
            is_letter = LETTER <= kind <= LOWER
            letters = at if is_letter else after  # one sign, space or mark may open the word
            end = _cased_end(kinds, letters)
            if end < 0 and kind == MARK:
                end = _cased_end(kinds, at)
            if end < 0:
                capitals = letters
                while kinds[capitals] == UPPER:
                    capitals += 1
                end = capitals if capitals > letters else -1
        if end >= 0:
            at = end + (_contraction(data, end, True) if kinds[end] == OTHER else 0)
        elif kind == NUMBER:
            left = 3
            while kinds[at] == NUMBER and (left > 0 or data[at] & 0xC0 == 0x80):
                left -= data[at] & 0xC0 != 0x80
                at += 1
        elif kind == OTHER or (data[at] == 0x20 and kinds[after] == OTHER):
            at = after
            while kinds[at] == OTHER or kinds[at] == MARK:
                at += 1
            while kinds[at] == LINE_END or (kinds[at] == OTHER and data[at] == 0x2F):
                at += 1
        else:
            at = _space_end(data, kinds, at)
        ends[count] = at
        count += 1
    return count


def has_scanner(pattern: Pattern) -> bool:
    """Whether words of this pattern are found by a scanner."""
    return pattern in (GPT2_PATTERN, CL100K_PATTERN, QWEN2_PATTERN, O200K_PATTERN)


def word_ends(text: bytes, pattern: Pattern, at_most: int = 1 << 15) -> Iterator[np.ndarray]:
    """The ends of the words of a UTF-8 text as int32 arrays of at most so many.

    Patterns without a scanner go through their regular expression, and their texts must hold no separator.
    """
    if len(text) >= 1 << 31:
        raise ValueError(f"{len(text)} bytes hold no place to cut; texts without any must be shorter than 2 GiB")
    if not has_scanner(pattern):
        lengths = [len(word.encode("utf-8")) for word in words_of(text.decode("utf-8"), pattern)]
        ends = np.cumsum(lengths, dtype=np.int64).astype(np.int32)
        yield from (ends[start : start + at_most] for start in range(0, len(ends), at_most))
        return
    data, kinds, at = np.frombuffer(text, dtype=np.uint8), np.empty(len(text) + 1, dtype=np.uint8), 0
    if pattern == O200K_PATTERN:
        classes = character_classes()
    else:
        classes = _coarse_classes(SPACE if pattern == GPT2_PATTERN else LINE_END)
    classify(data, classes, kinds)
    while at < len(text):
        ends = np.empty(min(at_most, len(text) - at), dtype=np.int32)
        if pattern == GPT2_PATTERN:
            count = scan_gpt2(data, kinds, at, ends)
        elif pattern == O200K_PATTERN:
            count = scan_o200k(data, kinds, at, ends)
        else:
            count = scan_cl100k(data, kinds, at, ends, 3 if pattern == CL100K_PATTERN else 1)
        at = int(ends[count - 1])
        yield ends[:count]
