"""Text as computers hold it: code points, the three UTFs by hand, normal forms, grapheme clusters.

The codecs work on one code point at a time, so that every bit can be followed; Python's own are the faster twins that the tests
compare them with. Also here: texts that are always at hand, for lessons and tests.

Taught in: 01_tokenizer_unicode.
"""

from __future__ import annotations

import json
import sysconfig
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from math import log
from pathlib import Path
from typing import Literal

MAX_CODE_POINT = 0x10FFFF
SURROGATES = range(0xD800, 0xE000)
"""Numbers that UTF-16 spends on pairs, so that no character has them."""

Encoding = Literal["utf-8", "utf-16", "utf-32"]
ENCODINGS: tuple[Encoding, ...] = ("utf-8", "utf-16", "utf-32")

NormalForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
NORMAL_FORMS: tuple[NormalForm, ...] = ("NFC", "NFD", "NFKC", "NFKD")

_PLANES = {0: "Basic Multilingual", 1: "Supplementary Multilingual", 2: "Supplementary Ideographic"}
_PLANES |= {3: "Tertiary Ideographic", 14: "Supplementary Special-purpose", 15: "Private Use A", 16: "Private Use B"}


def code_points(text: str) -> list[int]:
    """The number of each character.

    >>> [f"U+{number:04X}" for number in code_points("a汉")]
    ['U+0061', 'U+6C49']
    """
    return [ord(character) for character in text]


def from_code_points(numbers: Iterable[int]) -> str:
    """The text whose characters have these numbers.

    Raises: ValueError for a number that is no character.
    """
    return "".join(chr(_checked(number)) for number in numbers)


def label(code_point: int) -> str:
    """The usual name of a code point: U+, at least four hexadecimal digits, and what Unicode calls it.

    >>> label(0x6C49)
    'U+6C49 CJK UNIFIED IDEOGRAPH-6C49'
    """
    return f"U+{code_point:04X} {unicodedata.name(chr(code_point), '<no name>')}"


def plane(code_point: int) -> tuple[int, str]:
    """Number and name of the plane, one of 17 stretches of 65,536 code points.

    >>> plane(ord("😀"))
    (1, 'Supplementary Multilingual')
    """
    number = _in_range(code_point) >> 16
    return number, _PLANES.get(number, "unassigned")


def _in_range(code_point: int) -> int:
    if not 0 <= code_point <= MAX_CODE_POINT:
        raise ValueError(f"a code point lies in 0..0x10FFFF, got {code_point:#x}")
    return code_point


def _checked(code_point: int) -> int:
    if _in_range(code_point) in SURROGATES:
        raise ValueError(
            f"U+{code_point:04X} is a surrogate, half of a UTF-16 pair and no character; join the two halves first"
        )
    return code_point


def utf8_encode(code_point: int) -> bytes:
    """The 1 to 4 bytes of a code point in UTF-8: a first byte that tells the length, then 6 bits a byte.

    >>> utf8_encode(0x6C49).hex(" ")
    'e6 b1 89'

    Raises: ValueError for a surrogate or a number outside 0..0x10FFFF.
    Source: RFC 3629, section 3.  Taught in: 01_tokenizer_unicode.
    """
    number = _checked(code_point)
    if number < 0x80:
        return bytes([number])
    if number < 0x800:
        return bytes([0xC0 | number >> 6, 0x80 | number & 0x3F])
    if number < 0x10000:
        return bytes([0xE0 | number >> 12, 0x80 | number >> 6 & 0x3F, 0x80 | number & 0x3F])
    return bytes([0xF0 | number >> 18, 0x80 | number >> 12 & 0x3F, 0x80 | number >> 6 & 0x3F, 0x80 | number & 0x3F])


def utf8_decode(data: bytes) -> list[int]:
    """The code points of UTF-8 bytes; strict, so that every text has one spelling only.

    >>> utf8_decode(b"\\xe6\\xb1\\x89!")
    [27721, 33]

    Raises: ValueError for a truncated or overlong sequence, a stray continuation byte, a surrogate, or above 0x10FFFF.
    Source: RFC 3629, section 4.  Taught in: 01_tokenizer_unicode.
    """
    numbers, at = [], 0
    while at < len(data):
        first = data[at]
        if first < 0x80:
            numbers.append(first)
            at += 1
            continue
        length, least = _utf8_form(first, at)
        number = first & (0x7F >> length)
        for place in range(at + 1, at + length):
            if place >= len(data) or data[place] & 0xC0 != 0x80:
                got = "the end" if place >= len(data) else f"{data[place]:#04x}"
                raise ValueError(
                    f"byte {at} ({first:#04x}) begins {length} bytes, but byte {place} is {got}: truncated"
                )
            number = number << 6 | data[place] & 0x3F
        if number < least:
            raise ValueError(
                f"bytes {at}..{at + length - 1} are an overlong form of U+{number:04X}, which has a shorter one"
            )
        numbers.append(_checked(number))
        at += length
    return numbers


def _utf8_form(first: int, at: int) -> tuple[int, int]:
    """Length of the sequence that a first byte begins, and the least code point that needs that length."""
    if 0xC0 <= first < 0xE0:
        return 2, 0x80
    if 0xE0 <= first < 0xF0:
        return 3, 0x800
    if 0xF0 <= first < 0xF8:
        return 4, 0x10000
    kind = "a continuation byte without a first byte" if first < 0xC0 else "in no UTF-8 text"
    raise ValueError(f"byte {at} ({first:#04x}) is {kind}")


def utf16_encode(code_point: int) -> bytes:
    """The 2 or 4 bytes of a code point in UTF-16, big-endian; from U+10000 on a high and a low surrogate.

    >>> utf16_encode(ord("😀")).hex(" ")
    'd8 3d de 00'

    Raises: ValueError for a surrogate or a number outside 0..0x10FFFF.
    Source: RFC 2781, section 2.1.  Taught in: 01_tokenizer_unicode.
    """
    number = _checked(code_point)
    if number < 0x10000:
        return number.to_bytes(2, "big")
    offset = number - 0x10000
    return (0xD800 | offset >> 10).to_bytes(2, "big") + (0xDC00 | offset & 0x3FF).to_bytes(2, "big")


def utf16_decode(data: bytes) -> list[int]:
    """The code points of big-endian UTF-16 without a byte order mark.

    >>> utf16_decode(bytes.fromhex("6c49 d83d de00"))
    [27721, 128512]

    Raises: ValueError for an odd number of bytes or a surrogate without its partner.
    Source: RFC 2781, section 2.2.  Taught in: 01_tokenizer_unicode.
    """
    if len(data) % 2:
        raise ValueError(f"UTF-16 has an even number of bytes, got {len(data)}: truncated")
    units = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    numbers, at = [], 0
    while at < len(units):
        unit = units[at]
        if unit not in SURROGATES:
            numbers.append(unit)
            at += 1
            continue
        partner = units[at + 1] if at + 1 < len(units) else 0
        if unit >= 0xDC00 or not 0xDC00 <= partner < 0xE000:
            raise ValueError(f"bytes {2 * at}..{2 * at + 1} are the surrogate {unit:#06x} without its partner")
        numbers.append(0x10000 + ((unit & 0x3FF) << 10 | partner & 0x3FF))
        at += 2
    return numbers


def utf32_encode(code_point: int) -> bytes:
    """The 4 bytes of a code point in UTF-32, big-endian: the number itself.

    >>> utf32_encode(0x6C49).hex(" ")
    '00 00 6c 49'

    Raises: ValueError for a surrogate or a number outside 0..0x10FFFF.
    Taught in: 01_tokenizer_unicode.
    """
    return _checked(code_point).to_bytes(4, "big")


def utf32_decode(data: bytes) -> list[int]:
    """The code points of big-endian UTF-32 without a byte order mark.

    Raises: ValueError when the length is no multiple of 4, or for a number that is no character.
    """
    if len(data) % 4:
        raise ValueError(f"UTF-32 has a multiple of 4 bytes, got {len(data)}: truncated")
    return [_checked(int.from_bytes(data[at : at + 4], "big")) for at in range(0, len(data), 4)]


_ENCODE = {"utf-8": utf8_encode, "utf-16": utf16_encode, "utf-32": utf32_encode}


def encode_text(text: str, encoding: Encoding = "utf-8") -> bytes:
    """The bytes of a text in one of the three UTFs, big-endian, without a byte order mark.

    >>> [len(encode_text("a汉😀", encoding)) for encoding in ENCODINGS]
    [8, 8, 12]

    Raises: ValueError for another encoding or a lone surrogate.
    """
    return b"".join(map(_encoder(encoding), code_points(text)))


def _encoder(encoding: str):
    if encoding not in _ENCODE:
        raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, got {encoding!r}")
    return _ENCODE[encoding]


@dataclass(frozen=True)
class BitLayout:
    """Where the bits of one code point land in its encoded bytes."""

    code_point: int
    encoding: Encoding
    payload: int
    """The number whose bits are stored: the code point, less 0x10000 for a UTF-16 surrogate pair."""
    data: bytes
    sources: tuple[tuple[int | None, ...], ...]
    """For every byte its 8 bits, highest first: the bit of `payload` it carries (0 is the lowest), None for a marker bit."""

    def bits(self) -> list[list[int]]:
        """The value of every bit, byte by byte, highest first."""
        return [[byte >> shift & 1 for shift in range(7, -1, -1)] for byte in self.data]


# Payload bits of each byte, by encoding and number of bytes; the bits above them in that byte are the marker.
_PAYLOAD_BITS = {
    ("utf-8", 1): (7,),
    ("utf-8", 2): (5, 6),
    ("utf-8", 3): (4, 6, 6),
    ("utf-8", 4): (3, 6, 6, 6),
    ("utf-16", 2): (8, 8),
    ("utf-16", 4): (2, 8, 2, 8),
    ("utf-32", 4): (8, 8, 8, 8),
}


def bit_layout(code_point: int, encoding: Encoding = "utf-8") -> BitLayout:
    """Which bit of the code point stands where in its bytes, for a picture.

    >>> layout = bit_layout(ord("é"))
    >>> layout.bits()
    [[1, 1, 0, 0, 0, 0, 1, 1], [1, 0, 1, 0, 1, 0, 0, 1]]
    >>> layout.sources[0]
    (None, None, None, 10, 9, 8, 7, 6)

    Raises: ValueError for a surrogate, a number outside 0..0x10FFFF or another encoding.
    Taught in: 01_tokenizer_unicode.
    """
    data = _encoder(encoding)(code_point)
    widths = _PAYLOAD_BITS[encoding, len(data)]
    position = sum(widths)
    sources = []
    for width in widths:
        marker: list[int | None] = [None] * (8 - width)
        sources.append(tuple(marker + list(range(position - 1, position - width - 1, -1))))
        position -= width
    paired = encoding == "utf-16" and len(data) == 4
    return BitLayout(code_point, encoding, code_point - 0x10000 if paired else code_point, data, tuple(sources))


def normalize(text: str, form: NormalForm) -> str:
    """The text in a normal form: C composed, D decomposed, K with compatibility characters replaced.

    >>> normalize("ﬁancé", "NFKC"), len(normalize("é", "NFD"))
    ('fiancé', 2)

    Raises: ValueError for another form.
    Source: Unicode Standard Annex 15.  Taught in: 01_tokenizer_unicode.
    """
    if form not in NORMAL_FORMS:
        raise ValueError(f"form must be one of {', '.join(NORMAL_FORMS)}, got {form!r}")
    return unicodedata.normalize(form, text)


def graphemes(text: str) -> list[str]:
    """The extended grapheme clusters: what a reader takes for one character.

    >>> [len(cluster) for cluster in graphemes("e\\u0301👩‍👩‍👧🇩🇪")]
    [2, 5, 2]

    Source: Unicode Standard Annex 29.  Taught in: 01_tokenizer_unicode.
    """
    import regex

    return regex.findall(r"\X", text)


@dataclass(frozen=True)
class TextSizes:
    """One text measured in every unit that people call its length."""

    graphemes: int
    code_points: int
    utf8_bytes: int
    utf16_bytes: int
    utf32_bytes: int


def text_sizes(text: str) -> TextSizes:
    """The length of a text in grapheme clusters, code points, and bytes of the three UTFs.

    >>> text_sizes("🇩🇪")
    TextSizes(graphemes=1, code_points=2, utf8_bytes=8, utf16_bytes=8, utf32_bytes=8)
    """
    sizes = (len(text.encode(codec)) for codec in ("utf-8", "utf-16-be", "utf-32-be"))
    return TextSizes(len(graphemes(text)), len(text), *sizes)


def encodings_of(character: str, encodings: Sequence[str]) -> dict[str, bytes | None]:
    """The bytes of a character in each encoding that Python knows, None where the encoding lacks it.

    >>> encodings_of("汉", ["ascii", "gb2312", "utf-16-be"])
    {'ascii': None, 'gb2312': b'\\xba\\xba', 'utf-16-be': b'lI'}
    """

    def attempt(encoding: str) -> bytes | None:
        try:
            return character.encode(encoding)
        except UnicodeEncodeError:
            return None

    return {encoding: attempt(encoding) for encoding in encodings}


def mojibake(text: str, written_as: str = "utf-8", read_as: str = "latin-1") -> str:
    """What a reader sees who takes the bytes of one encoding for another; U+FFFD where that has no character.

    >>> mojibake("é")
    'Ã©'
    """
    return text.encode(written_as).decode(read_as, errors="replace")


def zipf_slope(counts: Iterable[int]) -> float:
    """Slope of log frequency over log rank, by least squares: about -1 for the words of a natural text.

    >>> round(zipf_slope([1200 // rank for rank in range(1, 7)]), 6)
    -1.0

    Raises: ValueError for fewer than two counts above zero.
    """
    frequencies = sorted((count for count in counts if count > 0), reverse=True)
    if len(frequencies) < 2:
        raise ValueError(f"a slope needs at least two counts above zero, got {len(frequencies)}")
    xs = [log(rank) for rank in range(1, len(frequencies) + 1)]
    ys = [log(frequency) for frequency in frequencies]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys)) / sum((x - mean_x) ** 2 for x in xs)


@cache
def _same_text_file() -> str:
    return (resources.files("llmcore") / "data_files" / "same_text.json").read_text(encoding="utf-8")


def same_text() -> dict[str, str]:
    """Two sentences about learning to read, the same in some thirty languages, then Python, mathematics and emoji.

    >>> same_text()["Chinese"]
    '没有人生来就会读书。我们一个字一个字、一个词一个词地学，直到有一天，书页开口说话。'
    """
    return json.loads(_same_text_file())


@cache
def python_documentation() -> str:
    """Python's reference topics as one English text of about half a megabyte, in the order of their names.

    It changes with the version of Python, as the documentation does.
    """
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def standard_library_sources(limit_bytes: int | None = None) -> str:
    """Source files of Python's standard library joined in the order of their paths, at most `limit_bytes`, cut after a line.

    Tests, installed packages and files that are not UTF-8 are left out.

    >>> len(standard_library_sources(1000)) > 900
    True

    Raises: ValueError when limit_bytes is below 1.
    """
    if limit_bytes is not None and limit_bytes < 1:
        raise ValueError(f"limit_bytes must be at least 1, got {limit_bytes}; for all sources pass None")
    sources, total = [], 0
    for path in _python_files(Path(sysconfig.get_paths()["stdlib"])):
        try:
            source = path.read_bytes()
            source.decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        sources.append(source)
        total += len(source)
        if limit_bytes is not None and total >= limit_bytes:
            break
    joined = b"".join(sources)
    if limit_bytes is not None and len(joined) > limit_bytes:
        joined = joined[: joined.rfind(b"\n", 0, limit_bytes) + 1]
    return joined.decode("utf-8")


def _python_files(folder: Path) -> Iterator[Path]:
    skipped = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name not in skipped:
            yield from _python_files(path)
        elif path.suffix == ".py":
            yield path
