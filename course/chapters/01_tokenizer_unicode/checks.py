"""Checks of chapter 01: encodings by hand, byte-pair encoding, segmentation by Viterbi."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import regex

from grader.exercise import Case, Close, Exercise, Misconception, Rng, Variant

Pair = tuple[bytes, bytes]
WORD = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _changed(source: str, *changes: tuple[str, str]) -> str:
    """The source with each passage replaced; a passage must stand once, so that no mistake is planted twice or never."""
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"passage {old!r} must stand once, got {source.count(old)} times; correct it")
        source = source.replace(old, new)
    return source


# 1 to 3: encodings by hand

SURROGATES = (0xD800, 0xDBFF, 0xDC00, 0xDFFF)
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x7FF, 0x800, 0xFFF, 0x1000, 0xD7FF, 0xE000, 0xFDD0, 0xFEFF, 0xFFFD, 0xFFFE, 0xFFFF) + (
    0x10000, 0x103FF, 0x10400, 0x1FFFE, 0x1FFFF, 0x3FFFF, 0x40000, 0xFFFFF, 0x100000, 0x10FC00, 0x10FFFF
)  # fmt: skip


def _characters(rng: Rng, count: int) -> Iterator[int]:
    """Random code points, as many of each UTF-8 length, of each number of bits within a length, and no surrogate."""
    for n in range(count):
        bits = (7, 11, 16, 21)[n % 4]
        low = (1, 0x80, 0x800, 0x10000)[n % 4]
        while True:
            code_point = rng.integer(low, min(2**bits - 1, 0x10FFFF))
            if not 0xD800 <= code_point <= 0xDFFF:
                break
        yield code_point


def _one_code_point_cases(rng: Rng) -> Iterator[Case]:
    for character in "Aé汉😉":
        yield Case(label=f"U+{ord(character):04X}, {unicodedata.name(character).lower()}", args=(ord(character),))
    for code_point in EDGES:
        yield Case(label=f"U+{code_point:04X}, at the edge of a range", args=(code_point,))
    for code_point in (*SURROGATES, rng.integer(0xD801, 0xDBFE), rng.integer(0xDC01, 0xDFFE)):
        yield Case(
            label=f"the surrogate {code_point:#x} stands for no character", args=(code_point,), raises=ValueError
        )
    for code_point in (0x110000, 0x1FFFFF, 0x200000, 2**31 - 1, rng.integer(0x110000, 0x1FFFFF)):
        yield Case(label=f"{code_point:#x} lies above 0x10FFFF", args=(code_point,), raises=ValueError)
    for number in (-1, -rng.integer(2, 2**21)):
        yield Case(label=f"{number} is negative", args=(number,), raises=ValueError)
    for number in (2**63, 2**64, 2**100):
        label = f"a number of {number.bit_length()} bits lies above 0x10FFFF"
        yield Case(label=label, args=(number,), raises=ValueError)
    yield Case(label="a negative number of 70 bits", args=(-(2**69),), raises=ValueError)
    for bit in range(21):
        yield Case(label=f"only bit {bit} is set", args=(1 << bit,))
    for code_point in _characters(rng, 40):
        yield Case(label=f"U+{code_point:04X}, drawn at random", args=(code_point,))


def _utf8(code_point: int) -> bytes:
    return chr(code_point).encode("utf-8")


def _utf16(code_point: int) -> bytes:
    return chr(code_point).encode("utf-16-be")


NO_CODECS = ("str.encode", "bytes.decode", "chr", "ord", "codecs", "ctypes", "builtins")

UTF8_ENCODE = Exercise(
    name="utf8_encode",
    reference=_utf8,
    cases=_one_code_point_cases,
    forbids=NO_CODECS,
    hints=(
        "How many bytes does this number need? Compare it with 0x80, 0x800 and 0x10000, and test for illegal numbers first.",
        "`code_point & 0x3F` are the last six bits, `code_point >> 6` is the rest. A continuation byte is 0x80 | six bits.",
        "Two bytes: bytes([0xC0 | code_point >> 6, 0x80 | code_point & 0x3F]). Three and four go on in the same way with 0xE0 and 0xF0.",
    ),
    misconceptions=(
        Misconception(
            name="surrogates accepted",
            replace=("0xD800 <= code_point <= 0xDFFF", "False"),
            says="0xD800..0xDFFF are the halves of UTF-16 pairs. They stand for no character, so UTF-8 must not write them.",
        ),
        Misconception(
            name="only one half of the surrogates refused",
            replace=("0xD800 <= code_point <= 0xDFFF", "0xD800 <= code_point <= 0xDBFF"),
            says="The high surrogates end at 0xDBFF, but the low ones follow: all of 0xD800..0xDFFF is refused.",
        ),
        Misconception(
            name="limit is 21 bits",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if not 0 <= code_point <= 0x1FFFFF"),
            says="Four bytes have room for 21 bits, but Unicode ends at 0x10FFFF, because UTF-16 can reach no further.",
        ),
        Misconception(
            name="limit leaves out the last code point",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if not 0 <= code_point < 0x10FFFF"),
            says="0x10FFFF itself is legal: it is the last code point, not the first illegal number.",
        ),
        Misconception(
            name="first boundary one too far",
            replace=("if code_point < 0x80:", "if code_point <= 0x80:"),
            says="One byte holds 7 bits: up to 0x7F. 0x80 already needs two bytes.",
        ),
        Misconception(
            name="second boundary one too far",
            replace=("if code_point < 0x800:", "if code_point <= 0x800:"),
            says="Two bytes hold 5 + 6 = 11 bits: up to 0x7FF. 0x800 already needs three.",
        ),
        Misconception(
            name="third boundary one too far",
            replace=("if code_point < 0x10000:", "if code_point <= 0x10000:"),
            says="Three bytes hold 4 + 6 + 6 = 16 bits: up to 0xFFFF. 0x10000 already needs four.",
        ),
        Misconception(
            name="third boundary one too early",
            replace=("if code_point < 0x10000:", "if code_point < 0xFFFF:"),
            says="U+FFFF fits in 16 bits, so three bytes are enough. Four would be an overlong form, which decoders refuse.",
        ),
        Misconception(
            name="Latin-1 up to 0xFF",
            replace=("if code_point < 0x80:", "if code_point < 0x100:"),
            says="Only ASCII, up to 0x7F, is one byte. From 0x80 on, a byte with the top bit set is a part of something longer.",
        ),
        Misconception(
            name="bytes in reverse order",
            code="""
def utf8_encode(code_point):
    if not 0 <= code_point <= 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(code_point)
    if code_point < 0x80:
        return bytes([code_point])
    parts, limit, lead = [], 0x20, 0xC0
    parts.append(0x80 | code_point & 0x3F)
    code_point >>= 6
    while code_point >= limit:
        parts.append(0x80 | code_point & 0x3F)
        code_point >>= 6
        lead |= limit
        limit >>= 1
    parts.append(lead | code_point)
    return bytes(parts)
""",
            says="The lead byte comes first and holds the highest bits. You collected the bytes from the low end: turn them round.",
        ),
        Misconception(
            name="continuation bytes keep seven bits",
            code="""
def utf8_encode(code_point):
    if not 0 <= code_point <= 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(code_point)
    if code_point < 0x80:
        return bytes([code_point])
    size = 2 if code_point < 0x800 else 3 if code_point < 0x10000 else 4
    lead = (0, 0, 0xC0, 0xE0, 0xF0)[size]
    tail = [0x80 | code_point >> 6 * k & 0x7F for k in reversed(range(size - 1))]
    return bytes([lead | code_point >> 6 * (size - 1), *tail])
""",
            says="A continuation byte is 10xxxxxx: six bits of the number. Mask with 0x3F, not 0x7F.",
        ),
        Misconception(
            name="the same lead byte for every length",
            replace=("0xE0 | code_point >> 12", "0xC0 | code_point >> 12"),
            says="The lead byte tells the length: 110xxxxx for two bytes, 1110xxxx for three, 11110xxx for four.",
        ),
        Misconception(
            name="surrogate pairs inside UTF-8 (CESU-8)",
            replace=(
                "    if code_point < 0x80:",
                "    if code_point > 0xFFFF:\n"
                "        rest = code_point - 0x10000\n"
                "        halves = (0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF))\n"
                "        return b''.join(\n"
                "            bytes([0xE0 | h >> 12, 0x80 | h >> 6 & 0x3F, 0x80 | h & 0x3F]) for h in halves\n"
                "        )\n"
                "    if code_point < 0x80:",
            ),
            says="Pairs of surrogates belong to UTF-16. UTF-8 writes a code point above U+FFFF directly, in four bytes.",
        ),
        Misconception(
            name="nothing above U+FFFF",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if not 0 <= code_point <= 0xFFFF"),
            says="Sixteen bits were enough in 1991. Emoji and rare Chinese characters lie above U+FFFF and take four bytes.",
        ),
        Misconception(
            name="noncharacters refused",
            replace=(
                "if not 0 <= code_point <= 0x10FFFF",
                "if code_point & 0xFFFE == 0xFFFE or not 0 <= code_point <= 0x10FFFF",
            ),
            says="U+FFFE and U+FFFF are noncharacters, and encodings still write them. Only surrogates and numbers out of range raise.",
        ),
        Misconception(
            name="surrogates thought to reach U+E000",
            replace=("0xD800 <= code_point <= 0xDFFF", "0xD800 <= code_point <= 0xE000"),
            says="The last surrogate is 0xDFFF. U+E000 is a legal code point, the first of the private use area.",
        ),
        Misconception(
            name="surrogates thought to begin at U+D7FF",
            replace=("0xD800 <= code_point <= 0xDFFF", "0xD7FF <= code_point <= 0xDFFF"),
            says="The first surrogate is 0xD800. U+D7FF is a legal code point.",
        ),
        Misconception(
            name="zero written as C0 80",
            replace=("if code_point < 0x80:", "if 0 < code_point < 0x80:"),
            says="U+0000 is the single byte 00. C0 80 is an overlong form (Java's modified UTF-8), which strict decoders refuse.",
        ),
    ),
    variants=(
        Variant(
            name="loop over lengths",
            code="""
def utf8_encode(code_point):
    if code_point < 0 or code_point > 0x10FFFF or code_point >> 11 == 0x1B:
        raise ValueError('not a character')
    if code_point < 128:
        return bytes((code_point,))
    size = 2 + (code_point >= 0x800) + (code_point >= 0x10000)
    out = []
    for _ in range(size - 1):
        code_point, six = divmod(code_point, 64)
        out.append(128 + six)
    out.append((0, 0, 192, 224, 240)[size] + code_point)
    return bytes(out[::-1])
""",
        ),
        Variant(
            name="strings of bits",
            code="""
def utf8_encode(code_point):
    if not 0 <= code_point < 0x110000 or 0xD800 <= code_point < 0xE000:
        raise ValueError(f'{code_point} is no character')
    layouts = ((7, '0{}'), (11, '110{}10{}'), (16, '1110{}10{}10{}'), (21, '11110{}10{}10{}10{}'))
    width, layout = next(item for item in layouts if code_point < 2 ** item[0])
    bits = f'{code_point:0{width}b}'
    first = width - 6 * (layout.count('{}') - 1)
    groups = [bits[:first]] + [bits[i : i + 6] for i in range(first, width, 6)]
    return int(layout.format(*groups), 2).to_bytes(layout.count('{}'), 'big')
""",
        ),
        Variant(
            name="bytearray and inserts",
            code="""
def utf8_encode(code_point):
    if code_point in range(0xD800, 0xE000) or code_point not in range(0x110000):
        raise ValueError('no character has this code point')
    if code_point <= 0x7F:
        return code_point.to_bytes(1, 'big')
    result, room, mark = bytearray(), 0x3F, 0x80
    while code_point > room:
        result.insert(0, 0x80 | code_point % 64)
        code_point //= 64
        room = 0x1F if room == 0x3F else room >> 1
        mark = mark >> 1 | 0x80
    result.insert(0, mark | code_point)
    return bytes(result)
""",
        ),
    ),
)


def _utf8_decoded(data: bytes) -> list[int]:
    return [ord(character) for character in data.decode("utf-8")]


def _bytes_case(label: str, data: bytes) -> Case:
    """A case that must decode or raise as Python's own strict decoder does."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return Case(label=label, args=(data,), raises=ValueError)
    return Case(label=label, args=(data,))


BROKEN = (
    ("a continuation byte with nothing before it", "80", "BF", "61 80 62", "C3 A9 A9", "E6 B1 89 89", "F0 9F 98 89 80"),
    ("the text ends inside a character", "C3", "E6", "E6 B1", "F0", "F0 9F", "F0 9F 98", "61 C3", "E6 B1 89 E6 B1"),
    ("a character is cut short by the next one", "C3 41", "E6 41 42", "E6 B1 41", "F0 9F 98 41", "F0 9F 41 42", "E6 B1 E6 B1 89"),
    ("a lead byte where a continuation byte belongs", "C3 C3", "C3 E9", "E6 F1 89", "E6 B1 C9", "F0 9F D8 89", "F0 9F 98 C9", "C3 C0", "E6 C0 89", "E6 B1 C0", "F0 C0 98 89", "F0 9F C0 89", "F0 9F 98 C0"),
    ("an ASCII byte where a continuation byte belongs", "C3 29", "E6 31 89", "E6 B1 09", "F0 1F 98 89", "F0 9F 58 89", "F0 9F 98 00"),
    ("an overlong form of two bytes", "C0 80", "C0 AF", "C1 BF", "C1 81"),
    ("an overlong form of five or six bytes", "F8 80 80 81 81", "F8 80 8F BF BF", "FC 80 80 80 81 81"),
    ("an overlong form of three bytes", "E0 80 80", "E0 80 AF", "E0 81 BF", "E0 9F BF"),
    ("an overlong form of four bytes", "F0 80 80 80", "F0 80 80 AF", "F0 82 82 AC", "F0 8F BF BF"),
    ("a surrogate", "ED A0 80", "ED AF BF", "ED B0 80", "ED BF BF", "ED A0 BD ED B8 89"),
    ("a number above 0x10FFFF", "F4 90 80 80", "F5 80 80 80", "F7 BF BF BF", "F4 BF BF BF"),
    ("a byte that begins no character", "F8", "FF", "FE", "F8 88 80 80 80", "FC 84 80 80 80 80", "FB BF BF BF BF", "FF FE 41", "F8 90 80 80", "FC 8F BF BF", "FF BF BF BF"),
)  # fmt: skip


def _utf8_decode_cases(rng: Rng) -> Iterator[Case]:
    yield Case(label="plain ASCII", args=(b"Hello",))
    yield Case(label="characters of 1, 2, 3 and 4 bytes", args=("Aé汉😉z".encode(),))
    yield Case(label="no bytes at all", args=(b"",))
    for kind, *examples in BROKEN:
        yield _bytes_case(f"{kind}: {examples[0]}", bytes.fromhex(examples[0]))
    for code_point in EDGES:
        yield Case(label=f"U+{code_point:04X}, at the edge of a range", args=(_utf8(code_point),))
    yield Case(label="a byte order mark is a character like any other", args=("\ufeffA\ufeff".encode(),))
    yield Case(label="a replacement character that really stands there", args=("a\ufffdb".encode(),))
    yield Case(label="letter and accent stay two code points", args=("e\u0301\u00e9\r\n".encode(),))
    for kind, *examples in BROKEN:
        for example in examples[1:]:
            yield _bytes_case(f"{kind}: {example}", bytes.fromhex(example))
    before, after = ("".join(map(chr, _characters(rng, 5))).encode() for _ in range(2))
    for kind, *examples in BROKEN:
        broken = bytes.fromhex(rng.choice(examples))
        yield _bytes_case(f"{kind}, after good text", before + broken)
        yield _bytes_case(f"{kind}, between good text", before + broken + after)
    yield Case(label="a long text", args=("".join(map(chr, _characters(rng, 2000))).encode(),))
    for _ in range(20):
        yield Case(label="random characters", args=("".join(map(chr, _characters(rng, 12))).encode(),))
    for _ in range(60):
        data = bytearray("".join(map(chr, _characters(rng, 6))).encode())
        data[rng.integer(0, len(data) - 1)] = rng.integer(0, 255)
        yield _bytes_case("one byte of a good text changed", bytes(data))
    for _ in range(20):
        lead = rng.choice((0xC0, 0xC1, 0xE0, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, rng.integer(0xC2, 0xFF)))
        tail = bytes(rng.integer(0x80, 0xBF) for _ in range(rng.integer(0, 4)))
        yield _bytes_case("a lead byte and random continuation bytes", bytes([lead]) + tail + b"z")


UTF8_DECODE = Exercise(
    name="utf8_decode",
    reference=_utf8_decoded,
    cases=_utf8_decode_cases,
    uses=("utf8_encode",),
    forbids=NO_CODECS,
    hints=(
        "Read the lead byte: it tells how many bytes the character has. Then ask of each further byte: is it there, and is it 10xxxxxx?",
        "Put the bits together with value = value << 6 | byte & 0x3F, and only then ask whether the value was allowed at this length.",
        "Least values by length: 0, 0x80, 0x800, 0x10000; below them the form is overlong. Refuse surrogates and above 0x10FFFF too.",
    ),
    misconceptions=(
        Misconception(
            name="overlong forms accepted",
            replace=("value < least", "False"),
            says="C0 AF decodes to '/', but '/' has a form of one byte. A form that is longer than needed must be refused.",
        ),
        Misconception(
            name="only overlong forms of two bytes refused",
            replace=("value < least", "value < least and length == 2"),
            says="Three and four bytes have overlong forms too: E0 80 AF and F0 80 80 AF are both '/'. Compare with the least value of each length.",
        ),
        Misconception(
            name="least value of a length refused",
            replace=("value < least", "value <= least"),
            says="U+0080, U+0800 and U+10000 are the first characters of their length, not overlong. Compare with <, not <=.",
        ),
        Misconception(
            name="surrogates accepted",
            replace=("0xD800 <= value <= 0xDFFF or value > 0x10FFFF", "value > 0x10FFFF"),
            says="ED A0 80 has the right shape, but its number is a surrogate. No character has it, so it must be refused.",
        ),
        Misconception(
            name="noncharacters refused",
            replace=("if 0xD800 <= value <= 0xDFFF", "if value & 0xFFFE == 0xFFFE or 0xD800 <= value <= 0xDFFF"),
            says="U+FFFE and U+FFFF are noncharacters, and encodings still write them: EF BF BF is legal and decodes to 0xFFFF.",
        ),
        Misconception(
            name="surrogates thought to reach U+E000",
            replace=("0xD800 <= value <= 0xDFFF", "0xD800 <= value <= 0xE000"),
            says="The last surrogate is 0xDFFF. U+E000 is a legal code point, the first of the private use area.",
        ),
        Misconception(
            name="surrogates thought to begin at U+D7FF",
            replace=("0xD800 <= value <= 0xDFFF", "0xD7FF <= value <= 0xDFFF"),
            says="The first surrogate is 0xD800. U+D7FF is a legal code point.",
        ),
        Misconception(
            name="numbers above 0x10FFFF accepted",
            replace=("0xD800 <= value <= 0xDFFF or value > 0x10FFFF", "0xD800 <= value <= 0xDFFF"),
            says="F4 90 80 80 is 0x110000, one past the last code point. Four bytes could count further than Unicode goes.",
        ),
        Misconception(
            name="continuation bytes not looked at",
            replace=("byte & 0xC0 != 0x80", "False"),
            says="Every continuation byte, not just the first, must look like 10xxxxxx. C3 41 is a broken character and an A, not one character.",
        ),
        Misconception(
            name="continuation bytes tested by the top bit only",
            replace=("byte & 0xC0 != 0x80", "byte < 0x80"),
            says="A byte from 0xC0 up begins a new character. A continuation byte is 10xxxxxx: test both top bits, byte & 0xC0 == 0x80.",
        ),
        Misconception(
            name="a cut character is dropped",
            replace=(
                "if len(tail) != length - 1:\n            raise",
                "if len(tail) != length - 1:\n            break\n            raise",
            ),
            says="When the data ends inside a character, that is an error. Breaking off without a word loses text.",
        ),
        Misconception(
            name="IndexError at the end",
            replace=("tail = data[start + 1 : start + length]", "tail = [data[start + k] for k in range(1, length)]"),
            says="Indexing past the end raises IndexError. The contract says ValueError: test the length first.",
        ),
        Misconception(
            name="stray bytes taken as Latin-1",
            replace=("if lead < 0x80:", "if lead < 0xC0:"),
            says="80..BF only continue a character. Alone they are an error, not a letter of Latin-1.",
        ),
        Misconception(
            name="stray bytes skipped",
            replace=(
                "        else:\n            raise",
                "        else:\n            start += 1\n            continue\n            raise",
            ),
            says="Skipping what you do not understand is not strict. A byte that begins no character must raise.",
        ),
        Misconception(
            name="errors replaced by U+FFFD",
            replace=(
                "        else:\n            raise",
                "        else:\n            code_points.append(0xFFFD)\n            start += 1\n            continue\n            raise",
            ),
            says="Replacement is for readers who prefer something to nothing. This decoder is strict: raise.",
        ),
        Misconception(
            name="forms of five and six bytes accepted",
            replace=(
                "        else:\n            raise",
                "        elif 0xF8 <= lead < 0xFC:\n            length, value, least = 5, lead & 0x03, 0\n"
                "        elif 0xFC <= lead < 0xFE:\n            length, value, least = 6, lead & 0x01, 0\n"
                "        else:\n            raise",
            ),
            says="UTF-8 of 1996 had five and six bytes. Since 2003 it ends with four; F8..FF begin nothing.",
        ),
        Misconception(
            name="surrogate pairs joined (CESU-8)",
            replace=(
                "        if 0xD800 <= value <= 0xDFFF or",
                "        if 0xDC00 <= value <= 0xDFFF and code_points and 0xD800 <= code_points[-1] <= 0xDBFF:\n"
                "            value = 0x10000 + ((code_points.pop() - 0xD800) << 10) + value - 0xDC00\n"
                "        if (0xDC00 <= value <= 0xDFFF or 0xD800 <= value <= 0xDBFF and data[start + 3 : start + 4] != b'\\xed') or",
            ),
            says="Joining two surrogates is UTF-16's work. In UTF-8 each of them is an error, also as a pair.",
        ),
        Misconception(
            name="byte order mark dropped",
            replace=("start = 0\n", "start = 3 if data[:3] == b'\\xef\\xbb\\xbf' else 0\n"),
            says="The docstring keeps the byte order mark: it is the code point 0xFEFF. Taking it off is the caller's choice.",
        ),
        Misconception(
            name="too few bits kept from a lead byte",
            replace=("lead & 0x0F", "lead & 0x07"),
            says="A three-byte lead is 1110xxxx: four bits of the number, lead & 0x0F.",
        ),
    ),
    variants=(
        Variant(
            name="encode again and compare",
            code="""
def utf8_decode(data):
    result, i = [], 0
    while i < len(data):
        b = data[i]
        size = 1 if b < 0x80 else 2 if 0xC0 <= b <= 0xDF else 3 if 0xE0 <= b <= 0xEF else 4 if 0xF0 <= b <= 0xF7 else 0
        if size == 0:
            raise ValueError('bad lead')
        value = b if size == 1 else b & (0xFF >> (size + 1))
        for c in data[i + 1 : i + size]:
            value = value * 64 + (c & 63)
        if utf8_encode(value) != data[i : i + size]:
            raise ValueError('not the form of this number')
        result.append(value)
        i += size
    return result
""",
        ),
        Variant(
            name="state machine, one byte at a time",
            code="""
def utf8_decode(data):
    out, value, need, low, high = [], 0, 0, 0x80, 0xBF
    for b in data:
        if need:
            if not low <= b <= high:
                raise ValueError('continuation byte expected')
            value, need, low, high = value << 6 | b & 63, need - 1, 0x80, 0xBF
            if not need:
                out.append(value)
        elif b <= 0x7F:
            out.append(b)
        elif 0xC2 <= b <= 0xDF:
            value, need = b & 31, 1
        elif 0xE0 <= b <= 0xEF:
            value, need = b & 15, 2
            low, high = (0xA0 if b == 0xE0 else 0x80), (0x9F if b == 0xED else 0xBF)
        elif 0xF0 <= b <= 0xF4:
            value, need = b & 7, 3
            low, high = (0x90 if b == 0xF0 else 0x80), (0x8F if b == 0xF4 else 0xBF)
        else:
            raise ValueError('bad lead')
    if need:
        raise ValueError('cut short')
    return out
""",
        ),
        Variant(
            name="regular expression of the well-formed forms",
            code="""
import re
def utf8_decode(data):
    good = re.compile(rb'[\\x00-\\x7f]|[\\xc2-\\xdf][\\x80-\\xbf]|\\xe0[\\xa0-\\xbf][\\x80-\\xbf]|[\\xe1-\\xec\\xee\\xef][\\x80-\\xbf]{2}'
        rb'|\\xed[\\x80-\\x9f][\\x80-\\xbf]|\\xf0[\\x90-\\xbf][\\x80-\\xbf]{2}|[\\xf1-\\xf3][\\x80-\\xbf]{3}|\\xf4[\\x80-\\x8f][\\x80-\\xbf]{2}')
    i, out = 0, []
    while i < len(data):
        m = good.match(data, i)
        if m is None:
            raise ValueError(f'malformed at {i}')
        first, *rest = m.group()
        if rest:
            first &= (1 << (6 - len(rest))) - 1
        for b in rest:
            first = (first << 6) + (b - 128)
        out.append(first)
        i = m.end()
    return out
""",
        ),
    ),
)

UTF16_ENCODE = Exercise(
    name="utf16_encode",
    reference=_utf16,
    cases=_one_code_point_cases,
    forbids=NO_CODECS,
    hints=(
        "Up to 0xFFFF the number itself is written in two bytes, the high one first. Above it two numbers of two bytes are needed.",
        "Take 0x10000 off. Of the 20 bits that are left, `>> 10` gives the upper ten, `& 0x3FF` the lower ten.",
        "high = 0xD800 + (rest >> 10), low = 0xDC00 + (rest & 0x3FF); each as number.to_bytes(2, 'big').",
    ),
    misconceptions=(
        Misconception(
            name="0x10000 not subtracted",
            replace=("code_point - 0x10000", "code_point"),
            says="A pair carries 20 bits: the code point less 0x10000. Without the subtraction U+10000 lands on D840 DC00 instead of D800 DC00.",
        ),
        Misconception(
            name="0xFFFF subtracted",
            replace=("code_point - 0x10000", "code_point - 0xFFFF"),
            says="The first pair, D800 DC00, stands for U+10000, so 0x10000 is what you take off.",
        ),
        Misconception(
            name="little-endian",
            code="""
def utf16_encode(code_point):
    if not 0 <= code_point <= 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(code_point)
    if code_point < 0x10000:
        return code_point.to_bytes(2, 'little')
    rest = code_point - 0x10000
    return (0xD800 + (rest >> 10)).to_bytes(2, 'little') + (0xDC00 + (rest & 0x3FF)).to_bytes(2, 'little')
""",
            says="Big-endian is asked: the high byte first, so U+0041 is 00 41.",
        ),
        Misconception(
            name="byte order mark in front",
            code="""
def utf16_encode(code_point):
    if not 0 <= code_point <= 0x10FFFF or 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(code_point)
    if code_point < 0x10000:
        return b'\\xfe\\xff' + code_point.to_bytes(2, 'big')
    rest = code_point - 0x10000
    return b'\\xfe\\xff' + (0xD800 + (rest >> 10)).to_bytes(2, 'big') + (0xDC00 + (rest & 0x3FF)).to_bytes(2, 'big')
""",
            says="The mark FE FF opens a file, not every character. This function writes one code point and no mark.",
        ),
        Misconception(
            name="low surrogate first",
            replace=(
                'return high.to_bytes(2, "big") + low.to_bytes(2, "big")',
                "return low.to_bytes(2, 'big') + high.to_bytes(2, 'big')",
            ),
            says="The high surrogate (D800..DBFF) comes first: a reader that meets it knows that a second half follows.",
        ),
        Misconception(
            name="bases of the halves exchanged",
            replace=(
                "0xD800 + (twenty_bits >> 10), 0xDC00 + (twenty_bits & 0x3FF)",
                "0xDC00 + (twenty_bits >> 10), 0xD800 + (twenty_bits & 0x3FF)",
            ),
            says="The upper ten bits go with 0xD800, the lower ten with 0xDC00.",
        ),
        Misconception(
            name="upper and lower ten bits exchanged",
            replace=(
                "0xD800 + (twenty_bits >> 10), 0xDC00 + (twenty_bits & 0x3FF)",
                "0xD800 + (twenty_bits & 0x3FF), 0xDC00 + (twenty_bits >> 10)",
            ),
            says="The first half carries the upper ten bits, rest >> 10, and the second the lower ten, rest & 0x3FF.",
        ),
        Misconception(
            name="both halves on 0xD800",
            replace=("0xDC00 + (twenty_bits & 0x3FF)", "0xD800 + (twenty_bits & 0x3FF)"),
            says="The second half has a range of its own, from 0xDC00, so that no reader can mistake it for a first one.",
        ),
        Misconception(
            name="mask one bit short",
            replace=("twenty_bits & 0x3FF", "twenty_bits & 0x1FF"),
            says="Ten bits are 0x3FF. Your mask keeps nine.",
        ),
        Misconception(
            name="nothing above U+FFFF (UCS-2)",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if not 0 <= code_point <= 0xFFFF"),
            says="Two bytes reach U+FFFF. The other 16 planes are written as pairs of surrogates.",
        ),
        Misconception(
            name="high bits cut off (UCS-2)",
            replace=(
                "    if code_point < 0x10000:\n        return code_point.to_bytes",
                "    if code_point <= 0x10FFFF:\n        return (code_point & 0xFFFF).to_bytes",
            ),
            says="Cutting off the bits above 16 turns an emoji into some other character. Write a pair of surrogates.",
        ),
        Misconception(
            name="boundary one too far",
            replace=("if code_point < 0x10000:", "if code_point <= 0x10000:"),
            says="Two bytes end at 0xFFFF. 0x10000 is the first code point that takes a pair: D800 DC00.",
        ),
        Misconception(
            name="surrogates accepted",
            replace=("0xD800 <= code_point <= 0xDFFF", "False"),
            says="A lone surrogate is half a character. UTF-16 uses the range for pairs only, so it must raise.",
        ),
        Misconception(
            name="numbers above 0x10FFFF accepted",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if code_point < 0"),
            says="Twenty bits and 0x10000 end at 0x10FFFF. Beyond it the high half runs over 0xDBFF: refuse such numbers.",
        ),
        Misconception(
            name="OverflowError for a negative number",
            replace=("if not 0 <= code_point <= 0x10FFFF", "if code_point > 0x10FFFF"),
            says="to_bytes raises OverflowError for a negative number. The contract says ValueError: test the lower end too.",
        ),
        Misconception(
            name="one byte for ASCII",
            replace=(
                "    if code_point < 0x10000:",
                "    if code_point < 0x80:\n        return bytes([code_point])\n    if code_point < 0x10000:",
            ),
            says="That is UTF-8's privilege. In UTF-16 nothing is shorter than two bytes: U+0041 is 00 41.",
        ),
    ),
    variants=(
        Variant(
            name="divmod and a list of bytes",
            code="""
def utf16_encode(code_point):
    if code_point < 0 or code_point > 0x10FFFF or 0xD800 <= code_point < 0xE000:
        raise ValueError('no character')
    units = [code_point]
    if code_point > 0xFFFF:
        upper, lower = divmod(code_point - 0x10000, 1024)
        units = [0xD800 | upper, 0xDC00 | lower]
    return bytes(b for unit in units for b in divmod(unit, 256))
""",
        ),
        Variant(
            name="struct",
            code="""
import struct
def utf16_encode(code_point):
    if code_point not in range(0x110000) or code_point in range(0xD800, 0xE000):
        raise ValueError(code_point)
    if code_point >> 16 == 0:
        return struct.pack('>H', code_point)
    return struct.pack('>HH', 0xD7C0 + (code_point >> 10), 0xDC00 | code_point & 0x3FF)
""",
        ),
        Variant(
            name="one number of four bytes",
            code="""
def utf16_encode(code_point):
    legal = 0 <= code_point <= 0xD7FF or 0xE000 <= code_point <= 0x10FFFF
    if not legal:
        raise ValueError(f'{code_point} is no character')
    if code_point <= 0xFFFF:
        return bytes([code_point // 256, code_point % 256])
    bits = f'{code_point - 65536:020b}'
    return int('110110' + bits[:10] + '110111' + bits[10:], 2).to_bytes(4, 'big')
""",
        ),
    ),
)


# 4 to 7: byte-pair encoding


def _pair_counts(words: dict[tuple[bytes, ...], int]) -> dict[Pair, int]:
    positions = Counter()
    for word, count in words.items():
        for place in range(len(word) - 1):
            positions[(word[place], word[place + 1])] += count
    return dict(positions)


def _letters(text: str) -> tuple[bytes, ...]:
    return tuple(bytes([byte]) for byte in text.encode("utf-8"))


def _random_words(rng: Rng, tokens: tuple[bytes, ...], how_many: int, longest: int) -> dict[tuple[bytes, ...], int]:
    words = {}
    while len(words) < how_many:
        word = tuple(rng.choice(tokens) for _ in range(rng.integer(1, longest)))
        words[word] = rng.integer(1, 40)
    return words


def _count_pairs_cases(rng: Rng) -> Iterator[Case]:
    n = rng.integer(3, 9)
    yield Case(label="one word, no pair twice", args=({_letters("low"): 1},))
    yield Case(label="a word that occurs several times", args=({_letters("low"): n},))
    yield Case(label="banana: the same pair twice in a word", args=({_letters("banana"): n},))
    yield Case(label="aaaa: the pair overlaps itself", args=({_letters("aaaa"): n},))
    yield Case(label="two words share a pair", args=({_letters("hug"): n, _letters("pugs"): n + 2},))
    yield Case(
        label="a long rare word and a short frequent one",
        args=({_letters("abababab"): 2, _letters("cb"): 50, _letters("bc"): 3},),
    )
    yield Case(label="(a, b) and (b, a) are two pairs", args=({_letters("ab"): 2, _letters("ba"): 7},))
    yield Case(label="no pair reaches from one word into the next", args=({_letters("ab"): 3, _letters("cd"): 3},))
    yield Case(label="words of a single token", args=({(b"a",): 4, (b"the",): 9},))
    yield Case(label="no words", args=({},))
    yield Case(
        label="tokens of several bytes: (ab, c) is not (a, bc)",
        args=({(b"ab", b"c", b"ab"): 3, (b"a", b"bc"): 5, (b"a", b"b", b"c"): 2},),
    )
    yield Case(label="bytes of Chinese and emoji", args=({_letters("汉汉字"): 2, _letters("😉é"): 3},))
    yield Case(label="counts of a large corpus", args=({_letters("the"): 10**12, _letters("then"): 10**12 + 1},))
    yield Case(label="counts beyond 2**53", args=({_letters("ab"): 2**60, _letters("abc"): 1},))
    yield Case(label="zero bytes", args=({(b"\x00", b"\x00\x00", b"\x00", b"a"): 2},))
    yield Case(label="two tokens, both the same", args=({(b"x", b"x"): n},))
    for _ in range(8):
        tokens = (b"a", b"b", b"ab", b"ba", b"\xc3", b"\xa9", b" ")
        yield Case(label="random words", args=(_random_words(rng, tokens, 9, 8),))


COUNT_PAIRS = Exercise(
    name="count_pairs",
    reference=_pair_counts,
    cases=_count_pairs_cases,
    hints=(
        "Two loops: over the words with their counts, and over the places where two tokens of a word stand side by side.",
        "pairwise(word), or zip(word, word[1:]), gives the neighbours, each place once.",
        "counts[pair] = counts.get(pair, 0) + count for every neighbour pair of every word.",
    ),
    misconceptions=(
        Misconception(
            name="each pair once a word",
            replace=("in pairwise(word)", "in set(pairwise(word))"),
            says="A set forgets repetitions: banana holds (a, n) twice, and both places count.",
        ),
        Misconception(
            name="the word's count ignored",
            replace=("counts.get(pair, 0) + count", "counts.get(pair, 0) + 1"),
            says="Each word stands for all its occurrences: add the word's count, not 1.",
        ),
        Misconception(
            name="overlapping places skipped",
            code="""
def count_pairs(words):
    counts = {}
    for word, count in words.items():
        i = 0
        while i < len(word) - 1:
            pair = (word[i], word[i + 1])
            counts[pair] = counts.get(pair, 0) + count
            i += 2 if word[i] == word[i + 1] else 1
    return counts
""",
            says="Counting looks at every place, overlapping ones too: aaaa holds (a, a) three times. Only merging must not overlap.",
        ),
        Misconception(
            name="words taken two tokens at a time",
            replace=("pairwise(word)", "zip(word[::2], word[1::2])"),
            says="Neighbours are at places 0-1, 1-2, 2-3: every place, not every second one.",
        ),
        Misconception(
            name="the last word wins",
            replace=("counts.get(pair, 0) + count", "count"),
            says="A pair may stand in several words, and several times in one. Add to what is there instead of overwriting it.",
        ),
        Misconception(
            name="last pair of a word missed",
            replace=("pairwise(word)", "pairwise(word[:-1])"),
            says="A word of n tokens has n - 1 pairs. You stop one early.",
        ),
        Misconception(
            name="pairs reach into the next word",
            code="""
def count_pairs(words):
    counts, last = {}, None
    for word, count in words.items():
        for token in word:
            if last is not None:
                counts[(last, token)] = counts.get((last, token), 0) + count
            last = token
    return counts
""",
            says="Words are apart: the last token of one and the first of the next are no pair.",
        ),
        Misconception(
            name="order of the two tokens forgotten",
            replace=(
                "counts[pair] = counts.get(pair, 0) + count",
                "pair = tuple(sorted(pair))\n            counts[pair] = counts.get(pair, 0) + count",
            ),
            says="(a, b) and (b, a) are two pairs: merging makes ab of one and ba of the other.",
        ),
        Misconception(
            name="joined bytes as keys",
            replace=(
                "counts[pair] = counts.get(pair, 0) + count",
                "pair = pair[0] + pair[1]\n            counts[pair] = counts.get(pair, 0) + count",
            ),
            says="The key is the tuple of two tokens. Joined, (ab, c) and (a, bc) would be the same.",
        ),
        Misconception(
            name="pairs of bytes instead of tokens",
            replace=(
                "for pair in pairwise(word):",
                "word = [bytes([byte]) for byte in b''.join(word)]\n        for pair in pairwise(word):",
            ),
            says="A token may be several bytes already. The pair is two neighbouring tokens, not two bytes.",
        ),
        Misconception(
            name="a pair with nothing at the end",
            replace=("pairwise(word)", "pairwise((*word, b''))"),
            says="The last token has no neighbour to its right. Stop one before the end.",
        ),
        Misconception(
            name="the commonest word only",
            replace=("counts.get(pair, 0) + count", "max(counts.get(pair, 0), count)"),
            says="A pair's count is the sum over all its places, not the largest of them.",
        ),
    ),
    variants=(
        Variant(
            name="Counter and indices",
            code="""
from collections import Counter

def count_pairs(words):
    total = Counter()
    for word, count in words.items():
        for i in range(1, len(word)):
            total[word[i - 1], word[i]] += count
    return total
""",
        ),
        Variant(
            name="one comprehension, then sums",
            code="""
from itertools import groupby, pairwise

def count_pairs(words):
    places = sorted((pair, count) for word, count in words.items() for pair in pairwise(word))
    return {pair: sum(count for _, count in group) for pair, group in groupby(places, key=lambda item: item[0])}
""",
        ),
        Variant(
            name="defaultdict and slices",
            code="""
from collections import defaultdict

def count_pairs(words):
    counts = defaultdict(int)
    for word in words:
        rest = word
        while len(rest) >= 2:
            counts[rest[:2]] += words[word]
            rest = rest[1:]
    return counts
""",
        ),
    ),
)


def _merged(word: tuple[bytes, ...], pair: Pair) -> tuple[bytes, ...]:
    out: list[bytes] = []
    free = False  # whether the last token of `out` may still be the first half of an occurrence
    for token in word:
        if free and (out[-1], token) == tuple(pair):
            out[-1] += token
            free = False
        else:
            out.append(token)
            free = True
    return tuple(out)


def _merge_word_cases(rng: Rng) -> Iterator[Case]:
    def case(label: str, word: str, pair: str) -> Case:
        """Word and pair as texts whose tokens are parted by spaces."""
        tokens = tuple(token.encode() for token in word.split())
        return Case(label=label, args=(tokens, tuple(token.encode() for token in pair.split())))

    yield case("once, in the middle", "l o w e r", "o w")
    yield case("twice", "b a n a n a", "a n")
    yield case("at the beginning", "a n t", "a n")
    yield case("at the end", "p a n", "a n")
    yield case("the whole word", "a n", "a n")
    yield case("not there", "l o w", "a n")
    yield case("aaa: from the left, without overlap", "a a a", "a a")
    yield case("aaaa and aaaaa", "a a a a b a a a a a", "a a")
    yield case("(b, a) is not (a, b)", "b a b a", "a b")
    yield case("the first half stands alone at the end", "b a n a", "a n")
    yield case("both tokens there, never side by side", "a x n a x n", "a n")
    yield case("one after the other", "a b a b c a b", "a b")
    yield case("tokens of several bytes", "th e r e th e", "th e")
    yield case("(a, bc) joins to the same bytes as (ab, c)", "a bc ab c", "ab c")
    yield case("the joined token is already there", "a b ab a b", "a b")
    yield case("the joined token is part of no new occurrence", "a a aa a a a", "aa a")
    yield case("a longer token that begins like the pair", "a nn a n an n", "a n")
    yield Case(label="no tokens", args=((), (b"a", b"n")))
    yield Case(label="one token, the first of the pair", args=((b"a",), (b"a", b"n")))
    yield Case(label="one token, the second of the pair", args=((b"n",), (b"a", b"n")))
    yield Case(label="bytes that are no characters", args=(_letters("é한é"), (b"\xc3", b"\xa9")))
    yield Case(label="zero bytes", args=((b"\x00", b"\x00", b"\x00"), (b"\x00", b"\x00")))
    yield Case(label="tokens that are or hold spaces", args=((b" ", b"a", b" a", b" ", b" ", b"a"), (b" ", b"a")))
    yield Case(label="tokens that are commas and line ends", args=((b",", b"\n", b"\n", b",\n", b","), (b"\n", b"\n")))
    every_byte = tuple(bytes([byte]) for byte in (*range(256), *b"ab"))
    yield Case(label="all 256 bytes: no byte is free to part tokens with", args=(every_byte, (b"a", b"b")))
    tokens = (b"a", b"b", b"ab", b"aa", b"ba")
    for _ in range(12):
        word = tuple(rng.choice(tokens) for _ in range(rng.integer(9, 16)))
        place = rng.integer(0, len(word) - 2)
        yield Case(label="a random word and a pair in it", args=(word, word[place : place + 2]))
    yield Case(label="a long word", args=(tuple(rng.choice(tokens[:2]) for _ in range(2000)), (b"a", b"b")))


MERGE_WORD = Exercise(
    name="merge_word",
    reference=_merged,
    cases=_merge_word_cases,
    hints=(
        "Walk through the word with an index and build a new list. At each place one of two things happens.",
        "If the tokens at i and i + 1 are the pair, append the joined token and go on two places; else append one and go on one.",
        "while i < len(word): if word[i:i + 2] == pair: ... i += 2, else: ... i += 1. A slice past the end is just shorter.",
    ),
    misconceptions=(
        Misconception(
            name="from right to left",
            code="""
def merge_word(word, pair):
    out, i = [], len(word) - 1
    while i >= 0:
        if i > 0 and (word[i - 1], word[i]) == pair:
            out.append(pair[0] + pair[1])
            i -= 2
        else:
            out.append(word[i])
            i -= 1
    return tuple(reversed(out))
""",
            says="Occurrences are taken from the left: aaa becomes (aa, a), not (a, aa).",
        ),
        Misconception(
            name="second token used again",
            replace=("i += 2", "i += 1"),
            says="After a merge both tokens are used up: go on two places, or the second one appears again.",
        ),
        Misconception(
            name="overlapping occurrences all merged",
            code="""
def merge_word(word, pair):
    out = []
    for i, token in enumerate(word):
        starts = word[i : i + 2] == pair
        follows = i > 0 and word[i - 1 : i + 1] == pair
        if starts:
            out.append(pair[0] + pair[1])
        elif not follows:
            out.append(token)
    return tuple(out)
""",
            says="aaa holds (a, a) at two places that share a token. Once the first is merged, its second token is gone.",
        ),
        Misconception(
            name="only the first occurrence",
            replace=("i += 2", "return tuple(merged) + word[i + 2 :]"),
            says="All occurrences in the word are merged, not just the first.",
        ),
        Misconception(
            name="compares the joined bytes",
            replace=(
                "word[i : i + 2] == pair",
                "len(word[i : i + 2]) == 2 and word[i] + word[i + 1] == pair[0] + pair[1]",
            ),
            says="(a, bc) and (ab, c) join to the same bytes and are different pairs. Compare token with token.",
        ),
        Misconception(
            name="works on the joined bytes of the word",
            code="""
def merge_word(word, pair):
    joined = pair[0] + pair[1]
    parts = b"".join(word).split(joined)
    out = []
    for n, part in enumerate(parts):
        if n:
            out.append(joined)
        out += [bytes([b]) for b in part]
    return tuple(out)
""",
            says="Joining the word first forgets where its tokens end. Walk over the tokens.",
        ),
        Misconception(
            name="last token lost",
            replace=("while i < len(word):", "while i < len(word) - 1:"),
            says="The last token has no right neighbour, but it still belongs to the word. Copy it.",
        ),
        Misconception(
            name="IndexError at the end",
            replace=("word[i : i + 2] == pair", "word[i] == pair[0] and word[i + 1] == pair[1]"),
            says="When the last token equals the first of the pair, there is no word[i + 1]. Test the length, or compare slices.",
        ),
        Misconception(
            name="either order",
            replace=("word[i : i + 2] == pair", "word[i : i + 2] == pair or word[i : i + 2] == pair[::-1]"),
            says="(b, a) is another pair than (a, b). The order matters.",
        ),
        Misconception(
            name="only the first token compared",
            replace=("word[i : i + 2] == pair", "word[i] == pair[0] and i + 1 < len(word)"),
            says="Both tokens must match: the one at i and the one at i + 1.",
        ),
        Misconception(
            name="joined in the wrong order",
            replace=("pair[0] + pair[1]", "pair[1] + pair[0]"),
            says="The new token reads as the two did: first, then second.",
        ),
        Misconception(
            name="the pair itself as the new token",
            replace=("merged.append(pair[0] + pair[1])", "merged.append(pair)"),
            says="The new token is one bytes object, pair[0] + pair[1], not a tuple inside the tuple.",
        ),
        Misconception(
            name="the joined token merged on",
            code="""
def merge_word(word, pair):
    out = []
    for token in word:
        if out and (out[-1].endswith(pair[0])) and token == pair[1]:
            out[-1] += token
        else:
            out.append(token)
    return tuple(out)
""",
            says="A merge joins exactly the two tokens of the pair. A token that merely ends with the first one is another token.",
        ),
    ),
    variants=(
        Variant(
            name="a stack",
            code="""
def merge_word(word, pair):
    first, second = pair
    stack, locked = [], True
    for token in word:
        if not locked and token == second and stack[-1] == first:
            stack[-1] = first + second
            locked = True
        else:
            stack.append(token)
            locked = False
    return tuple(stack)
""",
        ),
        Variant(
            name="edits a list in place",
            code="""
def merge_word(word, pair):
    tokens = list(word)
    i = 0
    while i + 1 < len(tokens):
        if tokens[i] == pair[0] and tokens[i + 1] == pair[1]:
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        i += 1
    return tuple(tokens)
""",
        ),
        Variant(
            name="iterator with a look ahead",
            code="""
def merge_word(word, pair):
    def walk():
        skip = False
        for here, there in zip(word, word[1:] + (None,)):
            if skip:
                skip = False
            elif (here, there) == pair:
                skip = True
                yield b"".join(pair)
            else:
                yield here
    return tuple(walk())
""",
        ),
    ),
)


def _split_special(text: str, special_tokens: Iterable[str]) -> list[tuple[str, bool]]:
    """The text in pieces, each with whether it is a special token; at every place the longest is tried first."""
    longest_first = sorted(special_tokens, key=len, reverse=True)
    pieces, start, place = [], 0, 0
    while place < len(text):
        special = next((token for token in longest_first if text.startswith(token, place)), None)
        if special is None:
            place += 1
            continue
        pieces += [(text[start:place], False), (special, True)]
        start = place = place + len(special)
    return [*pieces, (text[start:], False)]


def _trained(
    text: str, vocab_size: int, special_tokens: list[str], tie: Callable[[Pair], object] = lambda pair: pair
) -> tuple[dict[int, bytes], list[Pair]]:
    """BPE that counts everything again after each merge; `tie` orders pairs of equal count."""
    corpus: Counter[tuple[bytes, ...]] = Counter()
    for piece, is_special in _split_special(text, special_tokens):
        if not is_special:
            corpus.update(map(_letters, regex.findall(WORD, piece)))
    merges: list[Pair] = []
    while len(special_tokens) + 256 + len(merges) < vocab_size:
        counts = _pair_counts(corpus)
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], tie(pair)))
        merges.append(best)
        after: Counter[tuple[bytes, ...]] = Counter()
        for word, count in corpus.items():
            after[_merged(word, best)] += count
        corpus = after
    tokens = [token.encode("utf-8") for token in special_tokens] + [bytes([byte]) for byte in range(256)]
    return dict(enumerate(tokens + [a + b for a, b in merges])), merges


def _printable(pair: Pair) -> tuple[list[int], ...]:
    """The pair as GPT-2 prints bytes: those that cannot be printed are moved to 256 and up, which changes their order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    return tuple([byte if byte in kept else 256 + moved.index(byte) for byte in token] for token in pair)


WRONG_TIES: dict[str, tuple[str, Callable[[Pair], object]]] = {
    "joined bytes": ("AB", lambda pair: pair[0] + pair[1]),
    "GPT-2's printable forms": ("bz .", _printable),
    "the second token first": ("ABC", lambda pair: pair[::-1]),
    "the longer token first": ("AB", lambda pair: (len(pair[0] + pair[1]), pair)),
    "the shorter token first": ("AB", lambda pair: (-len(pair[0] + pair[1]), pair)),
    "the first token only": ("ABC", lambda pair: pair[0]),
    "the smallest pair": ("aé字", lambda pair: [[-byte for byte in token] + [1] for token in pair]),
    "characters in place of bytes": ("aéя字", lambda pair: [token.decode("utf-8", "replace") for token in pair]),
    "case put aside": ("aBAb", lambda pair: [token.lower() for token in pair]),
}
"""Ways to break ties that are not ours, each with an alphabet whose random texts show it."""


def _tie_case(rng: Rng, name: str) -> Case:
    """A random text on which the wrong way gives other merges. Words are few, so that many pairs are equally frequent."""
    alphabet, tie = WRONG_TIES[name]
    while True:
        words = [rng.word(alphabet, 2, 7) for _ in range(rng.integer(3, 6))]
        text, size = " ".join(words), 256 + rng.integer(6, 9)
        if _trained(text, size, [])[1] != _trained(text, size, [], tie)[1]:
            return Case(label="equally frequent pairs: the greater pair of bytes goes first", args=(text, size, []))


def _prose(rng: Rng, words: int) -> str:
    """Random words with common and rare ones, signs, numbers and runs of white space."""
    lexicon = [rng.word("aeinorst", 1, 7) for _ in range(25)] + ["don't", "we'll", "2024", "naïve", "汉字", "x1"]
    picked = [lexicon[min(rng.integer(0, 30), rng.integer(0, 30))] for _ in range(words)]
    return "".join(word + rng.choice((" ", " ", " ", ", ", ".\n", "  ", "!? ", "\n\n")) for word in picked)


def _train_bpe_cases(rng: Rng) -> Iterator[Case]:
    low = "low low low low low lower lower widest widest widest newest newest newest newest newest newest"
    end = "<|endoftext|>"
    yield Case(label="a few words, a few merges", args=(low, 262, []))
    yield Case(label="no room for merges: the 256 bytes alone", args=("hello hello", 256, []))
    yield Case(label="no room for merges: special tokens and bytes", args=("hello hello", 258, ["<a>", "<b>"]))
    yield Case(label="the same pair twice in a word: banana", args=("banana banana cab cab cab", 260, []))
    yield Case(label="aaaa: overlapping places", args=("aaaa aaaaa baaa aab", 261, []))
    yield Case(label="a rare long word, a frequent short one", args=("abababab " + "cd " * 4 + "ef", 260, []))
    yield Case(label="training stops when no pair is left", args=("ab abc", 300, []))
    yield Case(label="a pair that occurs once is still a pair", args=("xyz", 257, []))
    yield Case(label="an empty text", args=("", 270, []))
    yield Case(label="an empty text and a special token", args=("", 270, [end]))
    yield Case(label="a single character", args=("a", 270, []))
    yield Case(label="nothing but special tokens", args=(end * 3, 270, [end]))
    for size in (0, 255, -1):
        yield Case(label=f"vocab_size {size} is too small", args=("ab ab", size, []), raises=ValueError)
    yield Case(label="vocab_size 257 with two special tokens", args=("ab", 257, ["<a>", "<b>"]), raises=ValueError)
    yield Case(label="vocab_size 255, empty text", args=("", 255, []), raises=ValueError)
    for name in WRONG_TIES:
        yield _tie_case(rng, name)
    yield Case(label="tokens are bytes: é, 한 and emoji", args=("é한😉 é한😉 한é 👩‍👩‍👧 👩‍👩‍👧 한국", 285, []))
    yield Case(label="letter and accent stay as written; case stays", args=("e\u0301e\u0301 éé Éa éa ﬁﬁ fi", 275, []))
    document = " the cat sat on the mat"
    yield Case(label="a document end fifty times", args=((document + end) * 50, 275, [end]))
    yield Case(label="no pair reaches across a special token", args=("ab" + "<e>".join(["ba"] * 9), 262, ["<e>"]))
    yield Case(label="a special token inside a word", args=("low<s>low lowlow<s>er er", 262, ["<s>"]))
    yield Case(label="spaces before a special token", args=("a  <e>b a  <e>b   <e>", 262, ["<e>"]))
    yield Case(label="special tokens side by side, first and last", args=("<e><e>ab ab<f><e>", 265, ["<e>", "<f>"]))
    yield Case(label="a special token that the text lacks", args=("ab ab", 260, ["<pad>"]))
    yield Case(label="nothing declared special: its spelling is text", args=(("ab" + end) * 3, 268, []))
    longer = ["<|eot|>", "<|eot|><|eot|>", "<|eot|>!"]
    yield Case(
        label="the longest special token stands there", args=("ab<|eot|>!!ab ab<|eot|><|eot|>!! ab", 270, longer)
    )
    yield Case(label="the longest, listed last", args=("xab abcd abcd abce", 264, ["ab", "abc"]))
    yield Case(label="the longest, listed first", args=("xab abcd abcd abce", 264, ["abc", "ab"]))
    for special in ("a|b", "[X]", "(.)", "^$", "\\d", "b+", "a.c", "{2}", "?!", "#1", "a b"):
        text = f"ab abc {special} abc a|b [X] 1b ab {special}ab (.) a b bb ac"
        yield Case(
            label=f"a special token with signs that mean something to regex: {special}", args=(text, 266, [special])
        )
    yield Case(label="special tokens keep their order", args=("b a c b a c", 262, ["<zz>", "<a>", "<mmm>"]))
    yield Case(label="a special token that is not ASCII", args=("ab «é» ab «é»", 260, ["«é»", "汉"]))
    yield Case(label="runs of spaces, tabs and line ends", args=("a   b   c\n\n\nd\n\n\n  e \t\t f", 270, []))
    yield Case(label="white space at both ends", args=("  ab \n ab\n\n", 300, []))
    yield Case(label="line ends stay as they are", args=("a\r\n\r\nb\r\n\r\nc\r\r\rd", 300, []))
    yield Case(label="contractions, numbers, signs", args=("don't won't we'll x12 12 12!! !! it's IT'S '' 's", 275, []))
    yield Case(label="a run of digits is one word", args=("2024 2024 2024 1999 12345 12345", 275, []))
    yield Case(label="the same document again counts again", args=("ab<e>ab<e>ab<e>zz zz", 258, ["<e>"]))
    yield Case(label="End is not end", args=("abEnd abEnd end ab", 261, ["end"]))
    yield Case(label="no merge joins a word and its neighbour", args=("of the of the of the of the", 300, []))
    yield Case(label="combining signs and digits of other scripts", args=("हिन्दी हिन्दी ๑๒ ๑๒ ½½ x² x²", 290, []))
    for _ in range(4):
        words = [rng.word("ab", 1, 9) for _ in range(12)]
        yield Case(label="random words of two letters", args=(" ".join(words), 256 + rng.integer(10, 25), []))
    for _ in range(3):
        text = "".join(rng.choice((_prose(rng, 7), "<e>", "<ee>", "<e>")) for _ in range(9))
        yield Case(label="random text with special tokens", args=(text, 258 + rng.integer(15, 40), ["<e>", "<ee>"]))
    yield Case(label="a longer text", args=(_prose(rng, 350), 256 + 60, []))


_NAIVE_TRAIN = """
def train_bpe(text, vocab_size, special_tokens):
    if vocab_size < 256 + len(special_tokens):
        raise ValueError("vocab_size is too small")
    pieces = [text]
    if special_tokens:
        order = sorted(special_tokens, key=len, reverse=True)
        pieces = regex.split("|".join(regex.escape(s) for s in order), text)
    words = {}
    for piece in pieces:
        for found in regex.findall(GPT2_PATTERN, piece):
            word = tuple(bytes([b]) for b in found.encode("utf-8"))
            words[word] = words.get(word, 0) + 1
    vocab = [s.encode("utf-8") for s in special_tokens] + [bytes([b]) for b in range(256)]
    merges = []
    while len(vocab) < vocab_size:
        counts = {}
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] = counts.get(pair, 0) + count
        if not counts:
            break
        best = max(counts, key=lambda p: (counts[p], p))
        new_words = {}
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i:i + 2] == best:
                    out.append(best[0] + best[1])
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            new_words[tuple(out)] = new_words.get(tuple(out), 0) + count
        words = new_words
        merges.append(best)
        vocab.append(best[0] + best[1])
    return dict(enumerate(vocab)), merges
"""


def _wrong_training(name: str, says: str, *changes: tuple[str, str]) -> Misconception:
    return Misconception(name=name, says=says, code=_changed(_NAIVE_TRAIN, *changes))


_BEST = "best = max(counts, key=lambda p: (counts[p], p))"

TRAIN_BPE = Exercise(
    name="train_bpe",
    reference=_trained,
    cases=_train_bpe_cases,
    uses=("count_pairs", "merge_word"),
    forbids=("llmcore", "tokenizers", "tiktoken"),
    hints=(
        "Write the slow form first: count all pairs, take the best, merge it in all words, repeat. The checks are small.",
        "best = max(counts, key=lambda pair: (counts[pair], pair)) takes the highest count and breaks ties as asked. Cut the text first "
        "with regex.split on the escaped special tokens, the longest first, and each piece with regex.findall(GPT2_PATTERN, piece).",
        "while len(vocab) < vocab_size: counts = count_pairs(words); stop if it is empty; words = merge_word of each (adding up counts of "
        "words that become equal); append the pair to merges and its joined bytes to the vocabulary.",
    ),
    misconceptions=(
        _wrong_training(
            "pairs counted once a word",
            "banana holds (a, n) twice. A set of pairs for each word forgets the second place and picks another winner.",
            ("in zip(word, word[1:]):", "in set(zip(word, word[1:])):"),
        ),
        _wrong_training(
            "frequency of words ignored",
            "A word that occurs fifty times counts fifty times. Add the word's count for each of its pairs, not 1.",
            ("counts.get(pair, 0) + count", "counts.get(pair, 0) + 1"),
        ),
        _wrong_training(
            "ties go to the pair seen first",
            "max by count alone keeps the first pair it met. Of equally frequent pairs the greater pair of bytes wins: key (count, pair).",
            (_BEST, "best = max(counts, key=counts.get)"),
        ),
        _wrong_training(
            "ties go to the smallest pair",
            "Of equally frequent pairs the greater one wins, not the smaller.",
            (_BEST, "best = min(counts, key=lambda p: (-counts[p], p))"),
        ),
        _wrong_training(
            "ties broken on the joined bytes",
            "Compare the tuples, not their concatenation: (AB, A) is greater than (A, BB), although ABA comes before ABB.",
            (_BEST, "best = max(counts, key=lambda p: (counts[p], p[0] + p[1]))"),
        ),
        _wrong_training(
            "ties broken on token ids",
            "Comparing ids is comparing ages: a token learned later is always greater. Compare the bytes of the two tokens.",
            (_BEST, "best = max(counts, key=lambda p: (counts[p], vocab.index(p[0]), vocab.index(p[1])))"),
        ),
        _wrong_training(
            "ties broken on GPT-2's printable characters",
            "GPT-2 prints the byte 0x20 as a letter above all others, which changes the order. Compare the raw bytes.",
            (
                "    merges = []\n",
                "    merges = []\n"
                "    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]\n"
                "    rest = [b for b in range(256) if b not in keep]\n"
                "    shown = {b: chr(b) if b in keep else chr(256 + rest.index(b)) for b in range(256)}\n"
                "    text_of = lambda token: ''.join(shown[b] for b in token)\n",
            ),
            (_BEST, "best = max(counts, key=lambda p: (counts[p], text_of(p[0]), text_of(p[1])))"),
        ),
        _wrong_training(
            "ties broken on the second token first",
            "Tuples compare from the left: the first token decides, the second only when the first ones are equal.",
            (_BEST, "best = max(counts, key=lambda p: (counts[p], p[1], p[0]))"),
        ),
        _wrong_training(
            "starts from characters",
            "Byte-level BPE starts from UTF-8 bytes: é is the two tokens C3 and A9 until a merge joins them.",
            ('tuple(bytes([b]) for b in found.encode("utf-8"))', 'tuple(c.encode("utf-8") for c in found)'),
        ),
        _wrong_training(
            "special tokens left in the text",
            "Cut the special tokens out first. Else <|endoftext|>, the commonest word of all, takes the first merges.",
            ("pieces = regex.split(", "pieces = [text] or regex.split("),
        ),
        _wrong_training(
            "special tokens counted as words",
            "A group in the pattern makes split keep what it matched. The special tokens must not be among the words that you count.",
            ('"|".join(regex.escape(s) for s in order)', '"(" + "|".join(regex.escape(s) for s in order) + ")"'),
        ),
        _wrong_training(
            "documents joined after the cut",
            "Without the special token the end of one document and the start of the next become neighbours. Keep the pieces apart.",
            ("    words = {}\n", "    pieces = [''.join(pieces)]\n    words = {}\n"),
        ),
        _wrong_training(
            "special tokens not escaped",
            "In a regular expression | and [ have a meaning of their own. Pass each special token through regex.escape.",
            ("regex.escape(s) for s in order", "order"),
        ),
        _wrong_training(
            "a shorter special token taken first",
            "Alternatives are tried in the order given. Sort the special tokens by length, the longest first, or <|eot|> splits <|eot|>!.",
            ("sorted(special_tokens, key=len, reverse=True)", "sorted(special_tokens, key=len)"),
        ),
        _wrong_training(
            "special tokens tried in the order given",
            "Listed first does not mean longest. Sort a copy by length for the search, and keep the given order for the ids.",
            ("sorted(special_tokens, key=len, reverse=True)", "list(special_tokens)"),
        ),
        _wrong_training(
            "ids of special tokens sorted by length",
            "Sort a copy for the search; the ids follow the list as it was given, and the caller's list stays as it is.",
            (
                "order = sorted(special_tokens, key=len, reverse=True)",
                "order = special_tokens = sorted(special_tokens, key=len, reverse=True)",
            ),
        ),
        _wrong_training(
            "the caller's list sorted in place",
            "special_tokens.sort() changes the caller's list and, with it, the ids. Use sorted(...), which makes a new list.",
            (
                "order = sorted(special_tokens, key=len, reverse=True)",
                "special_tokens.sort(key=len, reverse=True)\n        order = special_tokens",
            ),
        ),
        _wrong_training(
            "special tokens after the bytes",
            "The order of ids is fixed: special tokens, then the 256 bytes, then merges.",
            (
                '[s.encode("utf-8") for s in special_tokens] + [bytes([b]) for b in range(256)]',
                '[bytes([b]) for b in range(256)] + [s.encode("utf-8") for s in special_tokens]',
            ),
        ),
        _wrong_training(
            "special tokens come on top of vocab_size",
            "vocab_size counts everything: special tokens, 256 bytes and merges. You made too many merges.",
            ("while len(vocab) < vocab_size:", "while len(vocab) < vocab_size + len(special_tokens):"),
        ),
        _wrong_training(
            "vocab_size taken as the number of merges",
            "vocab_size is the length of the finished vocabulary. The 256 bytes are part of it.",
            ("while len(vocab) < vocab_size:", "while len(merges) < vocab_size:"),
        ),
        _wrong_training(
            "one merge too many",
            "Stop when the vocabulary has vocab_size entries, not one later.",
            ("while len(vocab) < vocab_size:", "while len(vocab) <= vocab_size:"),
        ),
        _wrong_training(
            "one merge too few",
            "The vocabulary is one short of vocab_size.",
            ("while len(vocab) < vocab_size:", "while len(vocab) < vocab_size - 1:"),
        ),
        _wrong_training(
            "pairs that occur once are left",
            "Training stops when no pair is left. A pair that occurs once is a pair.",
            ("if not counts:", "if not counts or max(counts.values()) < 2:"),
        ),
        _wrong_training(
            "error when no pair is left",
            "max of nothing raises. Stop early instead: the vocabulary is then smaller than vocab_size.",
            ("        if not counts:\n            break\n", ""),
        ),
        _wrong_training(
            "too small a vocab_size accepted",
            "Special tokens and 256 bytes always have to fit. Raise ValueError for a vocab_size below that.",
            ("    if vocab_size < 256 + len(special_tokens):\n", "    if False:\n"),
        ),
        _wrong_training(
            "vocab_size compared with 256 only",
            "The special tokens need room too: the least vocab_size is len(special_tokens) + 256.",
            ("if vocab_size < 256 + len(special_tokens)", "if vocab_size < 256"),
        ),
        _wrong_training(
            "text.split() for words",
            "split() throws white space away. GPT2_PATTERN keeps it, as a part of the word that follows.",
            ("regex.findall(GPT2_PATTERN, piece)", "piece.split()"),
        ),
        _wrong_training(
            "no words at all",
            "Merges never cross a word. Cut each piece with GPT2_PATTERN before counting pairs.",
            ("regex.findall(GPT2_PATTERN, piece)", "[piece]"),
        ),
        _wrong_training(
            "white space stripped from the pieces",
            "A piece between special tokens keeps its white space: the spaces before <e> are a word of their own.",
            ("regex.findall(GPT2_PATTERN, piece)", "regex.findall(GPT2_PATTERN, piece.strip())"),
        ),
        _wrong_training(
            "text normalised",
            "Nothing normalises the text: an e with a combining accent and an é are different bytes, and must stay so.",
            (
                "    pieces = [text]\n",
                "    import unicodedata\n    text = unicodedata.normalize('NFC', text)\n    pieces = [text]\n",
            ),
        ),
        _wrong_training(
            "text lower-cased",
            "Case is information. The tokenizer keeps every letter as it is.",
            ("    pieces = [text]\n", "    text = text.lower()\n    pieces = [text]\n"),
        ),
        _wrong_training(
            "merged from right to left",
            "Within a word occurrences are merged from the left: aaa becomes (aa, a).",
            (
                "            out, i = [], 0\n            while i < len(word):\n                if word[i:i + 2] == best:\n"
                "                    out.append(best[0] + best[1])\n                    i += 2\n"
                "                else:\n                    out.append(word[i])\n                    i += 1\n",
                "            out, i = [], len(word)\n            while i > 0:\n                if word[max(i - 2, 0):i] == best:\n"
                "                    out.insert(0, best[0] + best[1])\n                    i -= 2\n"
                "                else:\n                    out.insert(0, word[i - 1])\n                    i -= 1\n",
            ),
        ),
        Misconception(
            name="counts of neighbours not updated",
            replace=(
                "            for pair in pairwise(word):\n                pair_counts[pair] -= frequency\n"
                "                if not pair_counts[pair]:\n                    del pair_counts[pair]\n",
                "            pair_counts.pop(best, None)\n",
            ),
            says="When (a, b) is merged in xaby, the pairs (x, a) and (b, y) are gone too. Take the whole word's old pairs off before adding the new ones.",
        ),
        Misconception(
            name="counts of new pairs not added",
            replace=(
                "pair_counts[pair] = pair_counts.get(pair, 0) + frequency\n                holders.setdefault(pair, set()).add(index)\n            words[index]",
                "pass\n            words[index]",
            ),
            says="The joined token has new neighbours. Their pairs must enter the counts, or nothing is ever built on a merge.",
        ),
        _wrong_training(
            "merges as joined bytes",
            "A merge is the pair of tokens, (first, second): joined, nobody could tell which two they were.",
            ("merges.append(best)", "merges.append(best[0] + best[1])"),
        ),
    ),
    variants=(
        Variant(name="count everything again", code=_NAIVE_TRAIN),
        Variant(
            name="with the exercises before",
            code="""
def train_bpe(text, vocab_size, special_tokens):
    vocab = {i: s.encode() for i, s in enumerate(special_tokens)}
    for b in range(256):
        vocab[len(vocab)] = b.to_bytes(1, "big")
    if vocab_size < len(vocab):
        raise ValueError(f"vocab_size {vocab_size} has no room for {len(vocab)} tokens")
    chunks, specials = [text], sorted(special_tokens, key=lambda s: -len(s))
    for special in specials if len(specials) == 1 else []:
        chunks = [part for chunk in chunks for part in chunk.split(special)]
    if len(specials) > 1:
        chunks = regex.split("|".join(regex.escape(s) for s in specials), text)
    words = {}
    for chunk in chunks:
        for m in regex.finditer(GPT2_PATTERN, chunk):
            key = tuple(bytes([b]) for b in m.group(0).encode())
            words[key] = words.get(key, 0) + 1
    merges = []
    while len(vocab) < vocab_size:
        counts = count_pairs(words)
        if len(counts) == 0:
            break
        pair = sorted(counts.items(), key=lambda item: (item[1], item[0]))[-1][0]
        merged = {}
        for word, n in words.items():
            word = merge_word(word, pair)
            merged[word] = merged.get(word, 0) + n
        words = merged
        vocab[len(vocab)] = b"".join(pair)
        merges.append(pair)
    return vocab, merges
""",
        ),
        Variant(
            name="token ids inside, heap with stale entries",
            code="""
import heapq
from collections import Counter, defaultdict

class Greater:
    def __init__(self, pair):
        self.pair = pair
    def __lt__(self, other):
        return self.pair > other.pair
    def __eq__(self, other):
        return self.pair == other.pair

def train_bpe(text, vocab_size, special_tokens):
    base = len(special_tokens)
    if vocab_size < base + 256:
        raise ValueError("too small")
    token_bytes = [s.encode("utf-8") for s in special_tokens] + [bytes((b,)) for b in range(256)]
    docs, start, i = [], 0, 0
    by_length = sorted(special_tokens, key=len)[::-1]
    while i < len(text):
        hit = [s for s in by_length if text[i : i + len(s)] == s]
        if hit:
            docs.append(text[start:i])
            i += len(hit[0])
            start = i
        else:
            i += 1
    docs.append(text[start:])
    freq = Counter(w for doc in docs for w in regex.findall(GPT2_PATTERN, doc))
    words = [[base + b for b in w.encode("utf-8")] for w in freq]
    weight = list(freq.values())
    counts, where = Counter(), defaultdict(set)
    for n, w in enumerate(words):
        for p in zip(w, w[1:]):
            counts[p] += weight[n]
            where[p].add(n)
    entry = lambda p: (-counts[p], Greater((token_bytes[p[0]], token_bytes[p[1]])), p)
    heap = [entry(p) for p in counts]
    heapq.heapify(heap)
    merges = []
    while heap and len(token_bytes) < vocab_size:
        negative, _, p = heapq.heappop(heap)
        if counts[p] != -negative or counts[p] == 0:
            continue
        new = len(token_bytes)
        token_bytes.append(token_bytes[p[0]] + token_bytes[p[1]])
        merges.append((token_bytes[p[0]], token_bytes[p[1]]))
        touched = set()
        for n in list(where[p]):
            old, w, k = words[n], [], 0
            while k < len(old):
                if k + 1 < len(old) and old[k] == p[0] and old[k + 1] == p[1]:
                    w.append(new)
                    k += 2
                else:
                    w.append(old[k])
                    k += 1
            for q in zip(old, old[1:]):
                counts[q] -= weight[n]
                touched.add(q)
            for q in zip(w, w[1:]):
                counts[q] += weight[n]
                where[q].add(n)
                touched.add(q)
            words[n] = w
        for q in touched:
            if counts[q] > 0:
                heapq.heappush(heap, entry(q))
    return {n: b for n, b in enumerate(token_bytes)}, merges
""",
        ),
    ),
)


def _encoded(
    text: str, vocab: dict[int, bytes], merges: list[Pair], special_tokens: list[str] | None = None
) -> list[int]:
    """The ids, by one pass over each word for the lowest-ranked pair that is left in it."""
    id_of = {token: number for number, token in vocab.items()}
    result = []
    for piece, is_special in _split_special(text, special_tokens or []):
        if is_special:
            result.append(id_of[piece.encode("utf-8")])
            continue
        for word in regex.findall(WORD, piece):
            result += [id_of[token] for token in _by_rank(_letters(word), merges)]
    return result


def _by_rank(word: tuple[bytes, ...], merges: list[Pair]) -> tuple[bytes, ...]:
    while True:
        present = set(pairwise(word))
        pair = next((pair for pair in merges if pair in present), None)
        if pair is None:
            return word
        word = _merged(word, pair)


def _longest_match(word: tuple[bytes, ...], merges: list[Pair]) -> tuple[bytes, ...]:
    known, data, out = {a + b for a, b in merges}, b"".join(word), []
    while data:
        size = next(n for n in range(len(data), 0, -1) if n == 1 or data[:n] in known)
        out.append(data[:size])
        data = data[size:]
    return tuple(out)


def _first_from(start: Callable[[list[int]], int]) -> Callable:
    """An encoder that ignores ranks: it merges the place that `start` picks among all that can be merged."""

    def encode_word(word: tuple[bytes, ...], merges: list[Pair]) -> tuple[bytes, ...]:
        while places := [i for i in range(len(word) - 1) if (word[i], word[i + 1]) in merges]:
            i = start(places)
            word = (*word[:i], word[i] + word[i + 1], *word[i + 2 :])
        return word

    return encode_word


def _last_learned(word: tuple[bytes, ...], merges: list[Pair]) -> tuple[bytes, ...]:
    while places := [i for i in range(len(word) - 1) if (word[i], word[i + 1]) in merges]:
        i = max(places, key=lambda i: merges.index((word[i], word[i + 1])))
        word = (*word[:i], word[i] + word[i + 1], *word[i + 2 :])
    return word


WRONG_ENCODERS = {
    "the longest token that fits": _longest_match,
    "the first pair from the left": _first_from(min),
    "the first pair from the right": _first_from(max),
    "the pair learned last": _last_learned,
}


def _model(rng: Rng, text: str, size: int, special_tokens: list[str]) -> tuple[dict[int, bytes], list[Pair]]:
    """A trained vocabulary with its ids dealt out at random, and its merges."""
    vocab, merges = _trained(text, size, special_tokens)
    numbers = rng.permutation(len(vocab)).tolist()
    return {number: vocab[old] for old, number in enumerate(numbers)}, merges


def _hand_vocab(merges: list[Pair], *special_tokens: str) -> dict[int, bytes]:
    tokens = [bytes([byte]) for byte in range(256)] + [a + b for a, b in merges]
    return dict(enumerate(tokens + [token.encode("utf-8") for token in special_tokens]))


def _rank_case(rng: Rng, name: str) -> Case:
    """A trained vocabulary and a word on which the wrong way gives other tokens than the right way and the other wrong ways."""
    others = [_by_rank, *(wrong for other, wrong in WRONG_ENCODERS.items() if other != name)]
    while True:
        merges = _trained(" ".join(rng.word("abc", 3, 9) for _ in range(10)), 256 + 12, [])[1]
        for _ in range(60):
            word = _letters(rng.word("abc", 6, 10))
            wrong = WRONG_ENCODERS[name](word, merges)
            if all(wrong != other(word, merges) for other in others):
                text = b"".join(word).decode()
                return Case(label="the pair learned first is merged first", args=(text, _hand_vocab(merges), merges))


def _encode_cases(rng: Rng) -> Iterator[Case]:
    def hand(label: str, text: str, merges: str, special: list[str] | None = None, known: tuple[str, ...] = ()) -> Case:
        """`merges` as text: pairs parted by commas, their tokens by _."""
        pairs = [tuple(token.encode() for token in pair.split("_")) for pair in merges.split(",") if pair]
        arguments = (text, _hand_vocab(pairs, *(known or special or ())), pairs)
        return Case(label=label, args=arguments if special is None else (*arguments, special))

    yield hand("no merges: one token a byte", "abc", "")
    yield hand("one merge", "abcab", "a_b")
    yield hand("a merge on a merge", "low lower", "l_o,lo_w,e_r, _low")
    yield hand("Hello: ll outranks el, so el cannot form", "Hello", "l_l,e_l,H_el,ll_o")
    yield hand("abc: (b, c) was learned before (a, b)", "abc", "b_c,a_b")
    yield hand("the longest token is out of reach", "abc abcd", "b_c,a_b,ab_c,abc_d")
    yield hand("aaaa and aaaaa: from the left", "aaaa aaaaa", "a_a,aa_aa")
    yield hand("aaa: the odd one out stands last", "aaa", "a_a")
    yield hand("no characters", "", "a_b")
    yield hand("a single character", "a", "a_b")
    yield hand("nothing but white space", "  \n ", " _ , _\n")
    yield hand("white space at both ends", "  ab ab\n", " _ ,a_b, _ab")
    yield hand("no merge reaches across words", "d d.d", " _d,d_ ,d_.,._d")
    yield hand("a whole token spelled out, but never merged", "cat", "c_a", None, ("cat",))
    for listed in (["<|eot|>", "<|eot|><|eot|>"], ["<|eot|><|eot|>", "<|eot|>"]):
        yield hand(
            f"the longest special token wins, listed {listed.index('<|eot|>') + 1}.",
            "a" + "<|eot|>" * 3 + "b",
            "",
            listed,
        )
    yield hand("the longest special token wins: abc over ab", "xabcab", "x_y", ["ab", "abc"])
    yield hand("the longest special token wins: three of them", "s ss sss ssss", "a_b", ["ss", "ssss", "sss"])
    for name in WRONG_ENCODERS:
        yield _rank_case(rng, name)
        yield _rank_case(rng, name)
    end = "<|endoftext|>"
    yield hand("one special token", f"ab{end}ab", "a_b", [end])
    yield hand("special tokens first, last and side by side", f"{end}{end}ab{end}", "a_b", [end])
    yield hand("nothing but a special token", end, "a_b", [end])
    yield hand("special tokens that the text lacks", "ab ab", "a_b", [end, "<pad>"])
    yield hand("special_tokens=None: its spelling is text", f"ab{end}", "a_b,<_|", None, (end,))
    yield hand("special_tokens=[]: its spelling is text", f"ab{end}", "a_b,<_|", [], (end,))
    yield hand("a special word that is not declared", "SEP aSEP", "a_b", None, ("SEP",))
    yield hand("only one of two special tokens is declared", "<a><b>", "a_b", ["<b>"], ("<a>", "<b>"))
    yield hand("no merge reaches across a special token", "a<e>b", "a_b", ["<e>"])
    yield hand("a special token inside a word", "xab<e>aby", "a_b,x_ab,ab_y", ["<e>"])
    yield hand("spaces beside a special token", "a  <e> a  <e>  a", " _ ,  _a, _a", ["<e>"])
    yield hand("<E> is not <e>", "<E><e>", "<_E", ["<e>"])
    yield hand("End is not end", "abEnd end", "b_E", ["end"])
    yield hand("a special token that overlaps itself", "aaa aa", "a_a", ["aa "])
    for special in ("a|b", "[X]", "(.)", "^$", "\\d", "b+", "a.c", "{2}", "?!", "#1", "a b"):
        text = f"ab abc {special} a|b [X] 1b {special}ab (.) a b bb"
        yield hand(f"a special token with signs that mean something to regex: {special}", text, "a_b, _ab", [special])
    yield hand("a special token that is not ASCII", "a«é»é", "a_b", ["«é»"])
    yield hand("a run of digits is one word", "2024 12345", "1_2,3_4,12_34,1234_5,2_0,2_4,20_24")
    yield hand("capitals after an apostrophe are no contraction", "IT'S DON'T", "'_S,'_T")
    yield hand("a zero byte and a byte order mark are characters", "\ufeffa\x00b", "a_b")
    in_words = [(b"a", b"\xc3"), (b"1", b"\xc2")]
    yield Case(label="é and ² belong to the word before them", args=("aé 1²", _hand_vocab(in_words), in_words))
    accents = [(b"e", b"\xcc"), (b"\xc3", b"\xa9"), (b"f", b"i"), (b"e\xcc", b"\x81")]
    yield Case(label="nothing is normalised", args=("e\u0301 é ﬁ fi İ ² ２", _hand_vocab(accents), accents))
    many = "é한😉 é한😉 👩‍👩‍👧 👩‍👩‍👧 🇩🇪 汉字汉字 汉字 हिन्दी"
    yield Case(label="bytes of many scripts", args=(many + " नमस्ते", *_model(rng, many, 285, [])))
    spaces = "a   b\n\n  c \t\td\r\n\r\n   "
    yield Case(label="white space is kept", args=(spaces, *_model(rng, spaces * 3, 268, [])))
    apostrophes = "don't won't it's IT'S we'll x12 12.50 '' 's !!?"
    yield Case(label="contractions, numbers, signs", args=(apostrophes, *_model(rng, apostrophes * 2, 285, [])))
    long = rng.word("ab", 300, 300)
    yield Case(label="a word of 300 letters", args=(long, *_model(rng, long[:80], 275, [])))
    for _ in range(4):
        prose = _prose(rng, 50)
        yield Case(label="random text, ids in any order", args=(prose[:250], *_model(rng, prose, 256 + 35, [])))
    for _ in range(3):
        text = "".join(rng.choice((_prose(rng, 5), "<e>", "<ee>", "<e><e>", " ")) for _ in range(9))
        special = ["<e>", "<ee>", "<e><e>"]
        yield Case(label="random text with special tokens", args=(text, *_model(rng, text, 284, special), special))
    words = [rng.word("aab", 1, 9) for _ in range(12)]
    yield Case(
        label="the same words again and again", args=(" ".join(words * 2), *_model(rng, " ".join(words), 272, []))
    )


_PLAIN_ENCODE = """
def encode(text, vocab, merges, special_tokens=None):
    ids = {token: i for i, token in vocab.items()}
    rank = {pair: n for n, pair in enumerate(merges)}
    pieces = [text]
    if special_tokens:
        order = sorted(special_tokens, key=len, reverse=True)
        pieces = regex.split("(" + "|".join(regex.escape(s) for s in order) + ")", text)
    out = []
    for piece in pieces:
        if special_tokens and piece in special_tokens:
            out.append(ids[piece.encode("utf-8")])
            continue
        for word in regex.findall(GPT2_PATTERN, piece):
            parts = [bytes([b]) for b in word.encode("utf-8")]
            while True:
                places = [i for i in range(len(parts) - 1) if (parts[i], parts[i + 1]) in rank]
                if not places:
                    break
                i = min(places, key=lambda i: rank[parts[i], parts[i + 1]])
                parts[i:i + 2] = [parts[i] + parts[i + 1]]
            out.extend(ids[part] for part in parts)
    return out
"""


def _wrong_encoding(name: str, says: str, *changes: tuple[str, str]) -> Misconception:
    return Misconception(name=name, says=says, code=_changed(_PLAIN_ENCODE, *changes))


ENCODE = Exercise(
    name="encode",
    reference=_encoded,
    cases=_encode_cases,
    uses=("merge_word",),
    forbids=("llmcore", "tokenizers", "tiktoken"),
    hints=(
        "Three cuts, from the outside in: special tokens, words, bytes. Only then merge, inside one word.",
        "ranks = {pair: n for n, pair in enumerate(merges)}. In each round take the neighbouring pair with the least rank; stop when no "
        "neighbouring pair has one.",
        "while True: pairs = set(zip(parts, parts[1:])) & ranks.keys(); stop if empty; pair = min(pairs, key=ranks.get); "
        "parts = merge_word(parts, pair). Then look each part up in {bytes: id}.",
    ),
    misconceptions=(
        Misconception(
            name="longest match",
            code="""
def encode(text, vocab, merges, special_tokens=None):
    ids = {token: i for i, token in vocab.items()}
    special = {s.encode("utf-8") for s in special_tokens or []}
    pieces = [text]
    if special_tokens:
        order = sorted(special_tokens, key=len, reverse=True)
        pieces = regex.split("(" + "|".join(regex.escape(s) for s in order) + ")", text)
    known = {a + b for a, b in merges} | {bytes([b]) for b in range(256)}
    out = []
    for piece in pieces:
        if special_tokens and piece in special_tokens:
            out.append(ids[piece.encode("utf-8")])
            continue
        for word in regex.findall(GPT2_PATTERN, piece):
            data = word.encode("utf-8")
            while data:
                size = max(n for n in range(1, len(data) + 1) if data[:n] in known)
                out.append(ids[data[:size]])
                data = data[size:]
    return out
""",
            says="Taking the longest token that fits is not BPE. Merge by rank: on abc with (b, c) before (a, b) the answer is a, bc.",
        ),
        _wrong_encoding(
            "first pair from the left",
            "Any pair that can be merged is not the right one. In each round the pair of lowest rank goes first, wherever it stands.",
            ("min(places, key=lambda i: rank[parts[i], parts[i + 1]])", "places[0]"),
        ),
        _wrong_encoding(
            "first pair from the right",
            "In each round the pair of lowest rank goes first, and among equal pairs the one further left.",
            ("min(places, key=lambda i: rank[parts[i], parts[i + 1]])", "places[-1]"),
        ),
        _wrong_encoding(
            "pair learned last goes first",
            "The lowest rank is merged first: merges are replayed in the order in which they were learned.",
            ("min(places,", "max(places,"),
        ),
        _wrong_encoding(
            "equal pairs from the right",
            "Of equal pairs the left one is merged first: aaa gives aa, a.",
            (
                "min(places, key=lambda i: rank[parts[i], parts[i + 1]])",
                "min(places, key=lambda i: (rank[parts[i], parts[i + 1]], -i))",
            ),
        ),
        _wrong_encoding(
            "one merge a word",
            "After a merge look again: the joined token may be the half of another pair. Repeat until nothing can be merged.",
            (
                "parts[i:i + 2] = [parts[i] + parts[i + 1]]",
                "parts[i:i + 2] = [parts[i] + parts[i + 1]]\n                break",
            ),
        ),
        _wrong_encoding(
            "all ranks in one sweep",
            "A sweep from left to right that joins every pair it knows ignores the ranks. In each round merge one pair: the one of lowest rank.",
            (
                "                i = min(places, key=lambda i: rank[parts[i], parts[i + 1]])\n"
                "                parts[i:i + 2] = [parts[i] + parts[i + 1]]",
                "                swept, i = [], 0\n"
                "                while i < len(parts):\n"
                "                    size = 2 if tuple(parts[i:i + 2]) in rank else 1\n"
                "                    swept.append(b''.join(parts[i:i + size]))\n"
                "                    i += size\n"
                "                parts = swept",
            ),
        ),
        _wrong_encoding(
            "one round a word",
            "One round joins one pair, wherever it stands. Then look again, until no neighbours are a pair in merges.",
            (
                "                i = min(places, key=lambda i: rank[parts[i], parts[i + 1]])\n"
                "                parts[i:i + 2] = [parts[i] + parts[i + 1]]",
                "                i = min(places, key=lambda i: rank[parts[i], parts[i + 1]])\n"
                "                parts = list(merge_word(tuple(parts), (parts[i], parts[i + 1])))\n"
                "                break",
            ),
        ),
        _wrong_encoding(
            "any two tokens that join to a token",
            "Only the pairs in merges are merged. That a + bc spells a token does not make (a, bc) a merge.",
            (
                "rank = {pair: n for n, pair in enumerate(merges)}",
                "rank = {a + b: n for n, (a, b) in enumerate(merges)}",
            ),
            ("if (parts[i], parts[i + 1]) in rank]", "if parts[i] + parts[i + 1] in rank]"),
            ("rank[parts[i], parts[i + 1]])", "rank[parts[i] + parts[i + 1]])"),
        ),
        _wrong_encoding(
            "rank by token id",
            "A pair's rank is its place in merges. Ids may be dealt out in any order.",
            ("rank = {pair: n for n, pair in enumerate(merges)}", "rank = {(a, b): ids[a + b] for a, b in merges}"),
        ),
        _wrong_encoding(
            "id computed as 256 + rank",
            "Where a token stands in the vocabulary is the vocabulary's business: look its bytes up instead of computing an id.",
            (
                "ids = {token: i for i, token in vocab.items()}",
                "ids = {token: i for i, token in vocab.items()}\n    ids |= {bytes([b]): b for b in range(256)} | {a + b: 256 + n for n, (a, b) in enumerate(merges)}",
            ),
        ),
        _wrong_encoding(
            "whole word looked up first",
            "That the word is a token does not mean that the merges reach it. Only merging makes tokens.",
            (
                "            while True:\n",
                "            if word.encode('utf-8') in ids:\n                parts = [word.encode('utf-8')]\n            while True:\n",
            ),
        ),
        _wrong_encoding(
            "no words",
            "Merges never cross a word. Cut the text with GPT2_PATTERN before merging.",
            ("regex.findall(GPT2_PATTERN, piece)", "[piece]"),
        ),
        _wrong_encoding(
            "text.split() for words",
            "split() throws white space away, and decoding cannot bring it back. GPT2_PATTERN keeps every character.",
            ("regex.findall(GPT2_PATTERN, piece)", "piece.split()"),
        ),
        _wrong_encoding(
            "white space stripped from the pieces",
            "Spaces before and after a special token are text. Encode them.",
            ("regex.findall(GPT2_PATTERN, piece)", "regex.findall(GPT2_PATTERN, piece.strip())"),
        ),
        _wrong_encoding(
            "starts from characters",
            "Begin with single bytes: é is C3 A9 until a merge joins them.",
            ('[bytes([b]) for b in word.encode("utf-8")]', '[c.encode("utf-8") for c in word]'),
        ),
        _wrong_encoding(
            "special tokens treated as text",
            "A special token becomes its own id. Cut the text at the special tokens before anything else.",
            ("    if special_tokens:\n", "    special_tokens = None\n    if special_tokens:\n"),
        ),
        _wrong_encoding(
            "special tokens dropped",
            "Without a group in the pattern, split throws away what it matched. The special tokens' ids belong to the result.",
            ('"(" + "|".join(regex.escape(s) for s in order) + ")"', '"|".join(regex.escape(s) for s in order)'),
        ),
        _wrong_encoding(
            "special tokens not escaped",
            "In a regular expression | and [ have a meaning of their own. Pass each special token through regex.escape.",
            ("regex.escape(s) for s in order", "order"),
        ),
        _wrong_encoding(
            "a shorter special token taken first",
            "Where several special tokens begin, the longest wins. Sort them by length, the longest first.",
            ("sorted(special_tokens, key=len, reverse=True)", "sorted(special_tokens, key=len)"),
        ),
        _wrong_encoding(
            "special tokens tried in the order given",
            "Listed first does not mean longest. Sort a copy by length, the longest first.",
            ("sorted(special_tokens, key=len, reverse=True)", "list(special_tokens)"),
        ),
        _wrong_encoding(
            "the caller's list sorted in place",
            "special_tokens.sort() changes the caller's list. Use sorted(...), which makes a new one.",
            (
                "order = sorted(special_tokens, key=len, reverse=True)",
                "special_tokens.sort(key=len, reverse=True)\n        order = special_tokens",
            ),
        ),
        _wrong_encoding(
            "special tokens without being asked",
            "Only what is in special_tokens is special. With None a user who types <|endoftext|> gets plain text, and that is a matter of safety.",
            (
                "    pieces = [text]\n",
                "    used = {bytes([b]) for b in range(256)} | {a + b for a, b in merges}\n    special_tokens = [t.decode('utf-8') for t in vocab.values() if t not in used]\n    pieces = [text]\n",
            ),
        ),
        _wrong_encoding(
            "error without special tokens",
            "special_tokens may be None or empty. Then there is nothing to cut: an empty pattern would match everywhere.",
            ("    if special_tokens:\n        order", "    if True:\n        order"),
        ),
        _wrong_encoding(
            "text normalised",
            "The tokenizer gives back exactly what it got. Normalising changes e + accent into é, silently.",
            (
                "    pieces = [text]\n",
                "    import unicodedata\n    text = unicodedata.normalize('NFC', text)\n    pieces = [text]\n",
            ),
        ),
        _wrong_encoding(
            "text lower-cased",
            "Case is information. Encode every letter as it is.",
            ("    pieces = [text]\n", "    text = text.lower()\n    pieces = [text]\n"),
        ),
        _wrong_encoding(
            "tokens instead of ids",
            "The result is a list of ids. Look the bytes of each token up in the vocabulary.",
            ("out.extend(ids[part] for part in parts)", "out.extend(parts)"),
        ),
    ),
    variants=(
        Variant(name="one merge at a time", code=_PLAIN_ENCODE),
        Variant(
            name="every merge in order, over each word",
            code="""
def encode(text, vocab, merges, special_tokens=None):
    to_id = dict(zip(vocab.values(), vocab.keys()))

    def ordinary(part):
        found = []
        for match in regex.finditer(GPT2_PATTERN, part):
            tokens = tuple(bytes((b,)) for b in match.group().encode())
            changed = True
            while changed:
                before = tokens
                for pair in merges:
                    after = merge_word(tokens, pair)
                    if after != tokens:
                        tokens = after
                        break
                changed = tokens != before
            found += [to_id[t] for t in tokens]
        return found

    result, rest = [], text
    while rest:
        hits = [(rest.find(s), -len(s), s) for s in special_tokens or () if s in rest]
        if not hits:
            return result + ordinary(rest)
        at, _, special = min(hits)
        result += ordinary(rest[:at]) + [to_id[special.encode()]]
        rest = rest[at + len(special) :]
    return result
""",
        ),
        Variant(
            name="linked list and heap",
            code="""
import heapq

def encode(text, vocab, merges, special_tokens=None):
    ids = {}
    for number in vocab:
        ids[vocab[number]] = number
    rank = dict(zip(merges, range(len(merges))))

    def word_ids(data):
        tokens = [data[i : i + 1] for i in range(len(data))]
        after = [*range(1, len(tokens)), None]
        before = [None, *range(len(tokens) - 1)]
        heap = []

        def offer(i):
            if i is not None and after[i] is not None and (tokens[i], tokens[after[i]]) in rank:
                heapq.heappush(heap, (rank[tokens[i], tokens[after[i]]], i, tokens[i], tokens[after[i]]))

        for i in range(len(tokens)):
            offer(i)
        while heap:
            _, i, left, right = heapq.heappop(heap)
            j = after[i]
            if tokens[i] != left or j is None or tokens[j] != right:
                continue
            tokens[i], tokens[j], after[i] = left + right, None, after[j]
            if after[i] is not None:
                before[after[i]] = i
            offer(before[i])
            offer(i)
        return [ids[t] for t in tokens if t is not None]

    out, start, i = [], 0, 0
    special = sorted(special_tokens or [], key=len)[::-1]
    while i <= len(text):
        hit = next((s for s in special if text.startswith(s, i)), None)
        if hit or i == len(text):
            for word in regex.findall(GPT2_PATTERN, text[start:i]):
                out += word_ids(word.encode("utf-8"))
        if hit:
            out.append(ids[hit.encode("utf-8")])
        i += len(hit) if hit else 1
        start = i if hit else start
    return out
""",
        ),
    ),
)


# 8 to 10: decoding, measuring, Viterbi


def _decoded(ids: list[int], vocab: dict[int, bytes]) -> str:
    data = bytearray()
    for number in ids:
        data += vocab[number]
    return str(bytes(data), "utf-8", "replace")


def _decode_cases(rng: Rng) -> Iterator[Case]:
    singles = {number: bytes([number]) for number in range(256)}

    def split(label: str, *tokens: bytes) -> Case:
        """The tokens under ids that are neither in order nor dense."""
        numbers = [7 * int(n) + 3 for n in rng.permutation(len(tokens) + 2)]
        vocab = dict(zip(numbers, (*tokens, b"unused", b"\xe6")))
        return Case(label=label, args=(numbers[: len(tokens)], vocab))

    yield split("two words", b"Hello", b" world")
    yield split("a character cut into two tokens", b"caf\xc3", b"\xa9!")
    yield split("a character cut into three tokens", b"\xe3", b"\x81", b"\x93")
    yield split("an emoji in four tokens", b"\xf0", b"\x9f", b"\x98", b"\x89")
    yield split("many scripts", *(("汉字 한 é 👩‍👩‍👧".encode())[i : i + 2] for i in range(0, 31, 2)))
    yield Case(label="no ids", args=([], {5: b"a"}))
    yield Case(label="no ids, no vocabulary", args=([], {}))
    yield Case(label="an id twice", args=([4, 9, 4, 4], {9: b"-", 4: b"ab"}))
    yield split("white space and line ends stay", b"  a ", b"\r\n", b"\tb\n", b"\n  ")
    yield split("a byte order mark stays", b"\xef\xbb\xbfA", b"\xef\xbb\xbf")
    yield split("letter and accent stay two code points", b"e", b"\xcc\x81", "ﬁ²".encode())
    yield split("a zero byte", b"a\x00", b"b")
    yield Case(label="a token of no bytes", args=([3, 1, 3], {3: b"", 1: b"a"}))
    yield split("signs that other tokenizers use for spaces: Ġ and ▁", "Ġa".encode(), "▁bĊ".encode())
    yield split("special tokens are text too", b"<|endoftext|>", b"a")
    yield split("a replacement character that was in the text", "\ufffd".encode(), b"a")
    yield split("a lone continuation byte", b"a", b"\x89", b"b")
    yield split("the end cut off", b"a", b"\xe6\xb1")
    yield split("a lead byte, then a letter", b"\xe6", b"a", b"\xf0\x9f", b"b")
    yield split("two lead bytes", b"\xe6\xe6", b"\xb1\x89")
    yield split("bytes that are never UTF-8", b"\xff\xfe", b"\xc0\x80")
    yield split("a surrogate in three bytes", b"\xed\xa0", b"\x80")
    for label, number in (("unknown id", 8), ("the id -1", -1), ("the id after the last", 10), ("a huge id", 2**40)):
        yield Case(label=label, args=([4, number, 9], {9: b"-", 4: b"ab"}), raises=ValueError)
    yield Case(label="unknown id at the end", args=([4, 4, 5], {4: b"ab"}), raises=ValueError)
    yield Case(label="an id in an empty vocabulary", args=([0], {}), raises=ValueError)
    for _ in range(12):
        text = "".join(map(chr, _characters(rng, 9))).encode()
        cuts = sorted({0, len(text), *(rng.integer(1, len(text) - 1) for _ in range(8))})
        yield split("random characters, cut anywhere", *(text[a:b] for a, b in pairwise(cuts)))
    for _ in range(6):
        yield Case(label="random bytes", args=([rng.integer(0, 255) for _ in range(20)], singles))


DECODE = Exercise(
    name="decode",
    reference=_decoded,
    cases=_decode_cases,
    forbids=("llmcore", "tokenizers", "tiktoken"),
    hints=(
        "What are the bytes of each id, and at what moment do bytes become characters?",
        'b"".join(...) first, then one .decode("utf-8", errors=...). Which handling of errors does the docstring name?',
        'Test for unknown ids and raise ValueError; then b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace").',
    ),
    misconceptions=(
        Misconception(
            name="each token decoded alone",
            replace=(
                'b"".join(vocab[token_id] for token_id in ids).decode("utf-8", errors="replace")',
                '"".join(vocab[token_id].decode("utf-8", errors="replace") for token_id in ids)',
            ),
            says="A character may be cut between two tokens. Join all bytes first, then decode once.",
        ),
        Misconception(
            name="strict",
            replace=('errors="replace"', 'errors="strict"'),
            says="A model may emit any ids, so the bytes may be no UTF-8. Replace what cannot be read instead of raising.",
        ),
        Misconception(
            name="bad bytes ignored",
            replace=('errors="replace"', 'errors="ignore"'),
            says='Dropping bad bytes hides that something is wrong. U+FFFD shows it: errors="replace".',
        ),
        Misconception(
            name="a cut character at the end dropped",
            code="""
import codecs

def decode(ids, vocab):
    for i in ids:
        if i not in vocab:
            raise ValueError(i)
    return codecs.getincrementaldecoder("utf-8")(errors="replace").decode(b"".join(vocab[i] for i in ids))
""",
            says="An incremental decoder keeps an unfinished character back and waits for more. At the end of the text it becomes U+FFFD: final=True.",
        ),
        Misconception(
            name="id 0 skipped",
            replace=(
                "    unknown =",
                "    ids = [token_id for token_id in ids if token_id]\n    unknown =",
            ),
            says="0 is false in Python, and it is an id like any other. Ask `in vocab`, not whether the id is true.",
        ),
        Misconception(
            name="bad bytes written out",
            replace=('errors="replace"', 'errors="backslashreplace"'),
            says='The docstring asks for U+FFFD, the replacement character: errors="replace".',
        ),
        Misconception(
            name="one U+FFFD for every bad byte",
            code="""
def decode(ids, vocab):
    for i in ids:
        if i not in vocab:
            raise ValueError(i)
    text = b"".join(vocab[i] for i in ids).decode("utf-8", errors="surrogateescape")
    return "".join("\\ufffd" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
""",
            says="The beginning of a character that breaks off becomes one U+FFFD, however many bytes it has. Leave the counting to the decoder.",
        ),
        Misconception(
            name="KeyError for an unknown id",
            replace=("if unknown:", "if False:"),
            says="vocab[id] raises KeyError. The contract says ValueError, with a message that names the id.",
        ),
        Misconception(
            name="unknown ids skipped",
            replace=("    if unknown:", "    ids = [token_id for token_id in ids if token_id in vocab]\n    if False:"),
            says="An unknown id means that ids and vocabulary do not belong together. Raise ValueError instead of leaving a gap.",
        ),
        Misconception(
            name="unknown ids become U+FFFD",
            replace=(
                "    if unknown:",
                "    vocab = vocab | {token_id: '\\ufffd'.encode() for token_id in unknown}\n    if False:",
            ),
            says="U+FFFD is for bytes that are no UTF-8. An id that the vocabulary lacks raises ValueError.",
        ),
        Misconception(
            name="only ids beyond the vocabulary's length refused",
            code="""
def decode(ids, vocab):
    for i in ids:
        if i >= len(vocab):
            raise ValueError(f"id {i} is too large")
    return b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace")
""",
            says="Ids need not be 0, 1, 2, ... up to the length. Ask the dictionary: `id not in vocab`.",
        ),
        Misconception(
            name="ids taken as places",
            replace=('b"".join(vocab[token_id]', 'b"".join(list(vocab.values())[sorted(vocab).index(token_id)]'),
            says="An id is a key of the dictionary, not a place in it. The order of the entries means nothing.",
        ),
        Misconception(
            name="Latin-1",
            replace=('.decode("utf-8", errors="replace")', '.decode("latin-1")'),
            says="Latin-1 makes a character of every byte: é becomes Ã©. The bytes are UTF-8.",
        ),
        Misconception(
            name="spaces between tokens",
            replace=('b"".join(vocab', 'b" ".join(vocab'),
            says="The spaces are in the tokens already. Join with nothing between.",
        ),
        Misconception(
            name="white space stripped",
            replace=('errors="replace")', 'errors="replace").strip()'),
            says="Decoding gives back every character, white space at the ends too.",
        ),
        Misconception(
            name="line ends made uniform",
            replace=('errors="replace")', 'errors="replace").replace("\\r\\n", "\\n")'),
            says="CR LF was in the text, so it comes back as CR LF.",
        ),
        Misconception(
            name="byte order mark dropped",
            replace=('"utf-8", errors', '"utf-8-sig", errors'),
            says="utf-8-sig eats a byte order mark at the start. Plain utf-8 keeps it.",
        ),
        Misconception(
            name="text normalised",
            code="""
import unicodedata

def decode(ids, vocab):
    for i in ids:
        if i not in vocab:
            raise ValueError(i)
    return unicodedata.normalize("NFC", b"".join(vocab[i] for i in ids).decode("utf-8", errors="replace"))
""",
            says="Nothing is normalised on the way back either: e + accent stays two code points.",
        ),
    ),
    variants=(
        Variant(
            name="bytearray and a loop",
            code="""
def decode(ids, vocab):
    data = bytearray()
    for i in ids:
        try:
            data.extend(vocab[i])
        except KeyError:
            raise ValueError(f"unknown id {i}") from None
    return data.decode(errors="replace")
""",
        ),
        Variant(
            name="incremental decoder",
            code="""
import codecs

def decode(ids, vocab):
    if not set(ids) <= set(vocab):
        raise ValueError("some ids are unknown")
    reader = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return "".join([reader.decode(vocab[i]) for i in ids] + [reader.decode(b"", final=True)])
""",
        ),
        Variant(
            name="str of bytes",
            code="""
def decode(ids, vocab):
    total = b""
    for i in ids:
        token = vocab.get(i)
        if token is None:
            raise ValueError(i)
        total = total + token
    return str(total, encoding="utf-8", errors="replace")
""",
        ),
    ),
)


def _ratio(text: str, ids: list[int]) -> float:
    bytes_of = sum(1 + (ord(c) > 0x7F) + (ord(c) > 0x7FF) + (ord(c) > 0xFFFF) for c in text)
    return bytes_of / len(ids)


def _compression_ratio_cases(rng: Rng) -> Iterator[Case]:
    yield Case(label="ASCII: bytes are characters", args=("hello world", [5, 6]))
    yield Case(label="seven bytes, two tokens", args=("seventy"[:7], [3, 1]))
    yield Case(label="characters of several bytes", args=("汉字é", [1, 2, 3, 4, 5]))
    yield Case(label="emoji: 4 bytes, not 2", args=("😉😉", [1, 2, 3]))
    yield Case(label="a family of several code points", args=("👩‍👩‍👧", [1, 2, 3, 4, 5, 6, 7]))
    yield Case(label="a flag of two code points", args=("🇩🇪", [9]))
    yield Case(label="more tokens than bytes", args=("ab", [1, 2, 3]))
    yield Case(label="letter and accent: 3 bytes", args=("e\u0301", [8, 8]))
    yield Case(label="the same id again and again", args=("aaaaaaa", [4, 4, 4]))
    yield Case(label="the id 0", args=("abcd", [0]))
    yield Case(label="white space counts", args=("  a \n\n", [1, 2, 3, 4]))
    yield Case(label="a zero byte and a byte order mark count", args=("\ufeffa\x00", [1, 2]))
    yield Case(label="CR LF is two bytes", args=("a\r\nb\r\n", [1, 2, 3, 4, 5]))
    yield Case(label="no text, one token", args=("", [7]))
    yield Case(label="no tokens", args=("abc", []), raises=ValueError)
    yield Case(label="no tokens, no text", args=("", []), raises=ValueError)
    for _ in range(6):
        text = "".join(map(chr, _characters(rng, rng.integer(5, 60))))
        yield Case(label="random characters", args=(text, [rng.integer(0, 9) for _ in range(rng.integer(7, 31))]))


_WORKED_RATIO = 'len(text.encode("utf-8")) / len(ids)'

COMPRESSION_RATIO = Exercise(
    name="compression_ratio",
    reference=_ratio,
    cases=_compression_ratio_cases,
    forbids=("llmcore",),
    close=Close(1e-12, 0.0),
    hints=(
        "Bytes per token: what is the length of the text in bytes?",
        'len(text) counts code points. len(text.encode("utf-8")) counts bytes.',
        'Raise ValueError if ids is empty; else return len(text.encode("utf-8")) / len(ids).',
    ),
    misconceptions=(
        Misconception(name="characters instead of bytes", replace=(_WORKED_RATIO, "len(text) / len(ids)"), says="len(text) counts code points. 汉 is one of them and three bytes: encode first."),
        Misconception(name="tokens per byte", replace=(_WORKED_RATIO, 'len(ids) / len(text.encode("utf-8")) if text else 0.0'), says="Bytes per token: bytes above, tokens below. More is better."),
        Misconception(name="whole numbers only", replace=(_WORKED_RATIO, 'len(text.encode("utf-8")) // len(ids)'), says="// throws the fraction away. Use /."),
        Misconception(name="distinct ids", replace=(_WORKED_RATIO, 'len(text.encode("utf-8")) / len(set(ids))'), says="Every token costs, repeated ones too: len(ids), not the number of different ids."),
        Misconception(name="UTF-16 bytes", replace=(_WORKED_RATIO, 'len(text.encode("utf-16-be")) / len(ids)'), says="The ratio counts UTF-8 bytes: one for an ASCII letter, three for 汉."),
        Misconception(name="Java's idea of a length", replace=(_WORKED_RATIO, 'len(text.encode("utf-16-be")) / 2 / len(ids)'), says="Counting UTF-16 units counts an emoji as 2. In UTF-8 it is 4 bytes."),
        Misconception(name="0.0 for no tokens", replace=('raise ValueError("bytes per token need at least one token, got none")', "return 0.0"), says="Bytes per token of no tokens is no number, not even 0. Raise ValueError."),
        Misconception(name="infinity for no tokens", replace=('raise ValueError("bytes per token need at least one token, got none")', 'return float("inf")'), says="Bytes per token of no tokens is no number. Raise ValueError."),
        Misconception(name="ZeroDivisionError", replace=("if not ids:", "if False:"), says="Dividing by zero raises ZeroDivisionError. The contract says ValueError: test for the empty list."),
        Misconception(name="rounded", replace=(_WORKED_RATIO, f"round({_WORKED_RATIO}, 2)"), says="Rounding is for the eye. Return the number as it is."),
        Misconception(name="text stripped", replace=(_WORKED_RATIO, 'len(text.strip().encode("utf-8")) / len(ids)'), says="White space is part of the text; tokens were spent on it."),
        Misconception(name="text normalised", replace=(_WORKED_RATIO, '(len(__import__("unicodedata").normalize("NFC", text).encode("utf-8")) / len(ids))'), says="Measure the text that was encoded, not a normalised one: e + accent is 3 bytes, é is 2."),
        Misconception(name="words instead of bytes", replace=(_WORKED_RATIO, "len(text.split()) / len(ids)"), says="Words per token is another measure (fertility turned round). Count UTF-8 bytes."),
        Misconception(name="empty text refused", replace=("if not ids:", "if not ids or not text:"), says="An empty text with tokens has the ratio 0.0. Only an empty list of ids has none."),
    ),
    variants=(
        Variant(name="sum over characters", code="""
def compression_ratio(text, ids):
    if len(ids) == 0:
        raise ValueError("no tokens")
    return sum(len(character.encode()) for character in text) / len(ids)
"""),
        Variant(name="sizes by range", code="""
def compression_ratio(text, ids):
    count = 0
    for c in text:
        n = ord(c)
        count += 1 if n < 0x80 else 2 if n < 0x800 else 3 if n < 0x10000 else 4
    try:
        return count / len(ids)
    except ZeroDivisionError:
        raise ValueError("ids is empty") from None
"""),
        Variant(name="bytes()", code="""
def compression_ratio(text, ids):
    tokens = sum(1 for _ in ids)
    if tokens < 1:
        raise ValueError("ids must not be empty")
    return float(len(bytes(text, "utf-8"))) * (1.0 / tokens) if tokens == 1 else len(bytes(text, "utf-8")) / tokens
"""),
    ),
)  # fmt: skip


def _ways(word: str, pieces: Iterable[str]) -> Iterator[list[str]]:
    """Every way to cut the word into pieces; for short words."""
    if not word:
        yield []
    for piece in pieces:
        if piece and word.startswith(piece):
            for rest in _ways(word[len(piece) :], pieces):
                yield [piece, *rest]


def _segmented(word: str, log_probs: dict[str, float]) -> list[str]:
    """The best way, worked out from the end of the word; checks.py asks for words with one best way only."""
    best: dict[int, tuple[float, list[str]]] = {len(word): (0.0, [])}
    for start in reversed(range(len(word))):
        ways = [
            (log_probs[word[start:end]] + best[end][0], [word[start:end], *best[end][1]])
            for end in range(start + 1, len(word) + 1)
            if end in best and word[start:end] in log_probs
        ]
        if ways:
            best[start] = max(ways, key=lambda way: way[0])
    return best[0][1]


def _greedy(word: str, log_probs: dict[str, float]) -> list[str]:
    """The longest piece that fits, again and again; [] when it gets stuck."""
    pieces = []
    while word:
        piece = next((word[:n] for n in range(len(word), 0, -1) if word[:n] in log_probs), None)
        if piece is None:
            return []
        pieces.append(piece)
        word = word[len(piece) :]
    return pieces


def _by(score: Callable[[list[float]], float]) -> Callable:
    def choose(word: str, log_probs: dict[str, float]) -> list[str]:
        return max(_ways(word, log_probs), key=lambda way: score([log_probs[piece] for piece in way]))

    return choose


WRONG_WAYS = {
    "longest piece first": _greedy,
    "longest piece first, from the end": lambda word, lp: [
        p[::-1] for p in _greedy(word[::-1], {k[::-1]: v for k, v in lp.items()})[::-1]
    ],
    "fewest pieces": _by(lambda logs: -len(logs) + sum(logs) / 1e6),
    "sum of probabilities": _by(lambda logs: sum(map(math.exp, logs))),
    "mean of log-probabilities": _by(lambda logs: sum(logs) / len(logs)),
    "best worst piece": _by(min),
    "best last piece": _by(lambda logs: logs[-1]),
    "best first piece": _by(lambda logs: logs[0]),
    "least probable": _by(lambda logs: -sum(logs)),
}


def _pieces_for(rng: Rng, word: str, extra: int) -> dict[str, float]:
    """Single characters of the word and some longer pieces, with random log-probabilities."""
    pieces = set(word)
    for _ in range(extra):
        start = rng.integer(0, len(word) - 2)
        pieces.add(word[start : start + rng.integer(2, 4)])
    return {piece: -rng.python.uniform(0.5, 4.0) - 0.8 * (len(piece) - 1) for piece in sorted(pieces)}


def _one_best(word: str, log_probs: dict[str, float]) -> bool:
    sums = sorted(sum(log_probs[p] for p in way) for way in _ways(word, log_probs))
    return len(sums) < 2 or sums[-1] - sums[-2] > 1e-6


def _way_case(rng: Rng, name: str) -> Case:
    """A word and pieces on which the wrong way cuts otherwise."""
    while True:
        word = rng.word("abcd", 5, 8)
        log_probs = _pieces_for(rng, word, 7)
        if _one_best(word, log_probs) and WRONG_WAYS[name](word, log_probs) != _segmented(word, log_probs):
            return Case(label="the sum of log-probabilities decides", args=(word, log_probs))


def _viterbi_cases(rng: Rng) -> Iterator[Case]:
    def case(label: str, word: str, raises: type[Exception] | None = None, **log_probs: float) -> Case:
        return Case(label=label, args=(word, log_probs), raises=raises)

    yield case("one piece for the whole word", "ab", a=-2.0, b=-2.0, ab=-1.0)
    yield case("two pieces are better than one", "ab", a=-1.0, b=-1.0, ab=-3.0)
    yield case("the longest first piece is a trap", "abc", a=-1.0, bc=-1.0, ab=-1.5, c=-3.0)
    yield case("the longest first piece leads nowhere", "abc", ab=-0.5, a=-3.0, bc=-3.0)
    yield case(
        "three pieces, none of them the longest",
        "abcdef",
        ab=-1.0,
        cd=-1.0,
        ef=-1.0,
        abc=-2.0,
        de=-2.5,
        f=-2.0,
        abcd=-4.0,
    )
    for name in WRONG_WAYS:
        yield _way_case(rng, name)
        yield _way_case(rng, name)
    yield case("small pieces are better by a hair", "abc", a=-1.0, b=-1.0, c=-1.0, ab=-2.02, bc=-2.02, abc=-3.03)
    yield case("the whole is better by a hair", "abc", a=-1.0, b=-1.0, c=-1.0, ab=-1.99, bc=-1.99, abc=-2.98)
    yield case("one character", "a", a=-5.0)
    yield case("a probability of 1 has the logarithm 0", "aa", a=0.0)
    yield case("probability 1 at the beginning", "ab", a=0.0, b=-2.0, ab=-2.5)
    yield case("no characters", "", a=-1.0)
    yield case("a piece longer than the word", "ab", a=-1.0, b=-1.0, abc=-0.1)
    yield case("a long piece", "abcdefghijklmnop", abcdefghijklmnop=-9.0, **dict.fromkeys("abcdefghijklmnop", -1.0))
    yield case("a piece of 60 characters", "ab" * 30, a=-1.0, b=-1.0, **{"ab" * 30: -9.0})
    yield case("two pieces better by 1e-8", "ab", a=-1.0, b=-1.0, ab=-2.00000001)
    yield case("one piece better by 1e-8", "ab", a=-1.0, b=-1.0, ab=-1.99999999)
    yield case("a sum below -1e9", "aa", a=-1e12)
    yield case("pieces that the word lacks", "xy", x=-1.0, y=-1.0, z=-0.1, yx=-0.1)
    yield case("Chinese", "跟我学语文", 跟=-3.0, 我=-2.0, 学=-3.5, 语=-4.0, 文=-4.0, 语文=-5.0, 学语=-7.0, 跟我=-6.0)
    yield Case(
        label="an emoji of several code points",
        args=("a👩‍👧b", {"a": -1.0, "👩‍👧": -2.0, "b": -1.0, "👩": -0.1, "👧b": -0.1}),
    )
    yield Case(
        label="letter and accent are two characters",
        args=("e\u0301a", {"e": -1.0, "\u0301": -1.0, "a": -1.0, "é": -0.1, "éa": -0.1}),
    )
    yield Case(label="spaces and case stay", args=(" Ab", {" A": -1.0, "b": -1.0, " a": -0.1, " ab": -0.1}))
    yield case("a character that no piece holds", "abx", ValueError, a=-1.0, b=-1.0, ab=-1.0)
    yield case("an unknown character at the beginning", "xab", ValueError, a=-1.0, b=-1.0, ab=-1.0)
    yield case("an unknown character in the middle", "axb", ValueError, a=-1.0, b=-1.0, ab=-1.0)
    yield case("the pieces do not meet", "abc", ValueError, ab=-1.0, bc=-1.0)
    yield case("no pieces", "a", ValueError)
    yield case("only a longer piece", "ab", ValueError, abc=-1.0)
    yield case("only the end fits", "abc", ValueError, b=-1.0, c=-1.0)
    for length, piece in ((300, -9.0), (150, -700.0)):
        word = rng.word("abc", length, length)
        letters = {"a": piece, "b": piece - 0.5, "c": piece - 0.25}
        pairs = {"ab": 2 * piece + 0.125, "bc": 2 * piece - 2.0, "abc": 3 * piece - 0.5}
        yield Case(label=f"{length} characters: the product of probabilities is 0", args=(word, letters | pairs))
    for _ in range(10):
        word = rng.word("abcde", 6, 9)
        log_probs = _pieces_for(rng, word, 9)
        if _one_best(word, log_probs):
            yield Case(label="a random word and random pieces", args=(word, log_probs))
    for _ in range(4):
        word = rng.word("abcd", 5, 8)
        log_probs = {p: v for p, v in _pieces_for(rng, word, 9).items() if len(p) > 1 or rng.integer(0, 1)}
        if next(_ways(word, log_probs), None) is None:
            yield Case(label="random pieces that cannot make the word", args=(word, log_probs), raises=ValueError)
        elif _one_best(word, log_probs):
            yield Case(label="random pieces, some characters missing", args=(word, log_probs))


_FORWARD = """
def viterbi_segment(word, log_probs):
    best = [(0.0, [])] + [None] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end):
            piece = word[start:end]
            if best[start] is not None and piece in log_probs:
                score = best[start][0] + log_probs[piece]
                if best[end] is None or score > best[end][0]:
                    best[end] = (score, best[start][1] + [piece])
    if best[-1] is None:
        raise ValueError("no segmentation")
    return best[-1][1]
"""


def _wrong_segmentation(name: str, says: str, *changes: tuple[str, str]) -> Misconception:
    return Misconception(name=name, says=says, code=_changed(_FORWARD, *changes))


VITERBI = Exercise(
    name="viterbi_segment",
    reference=_segmented,
    cases=_viterbi_cases,
    forbids=("llmcore", "sentencepiece", "tokenizers"),
    hints=(
        "For each position of the word: what is the best sum with which some way of cutting reaches it? Position 0 has the sum 0.",
        "best[end] is the largest best[start] + log_probs[word[start:end]] over all start < end that can be reached. Remember the start.",
        "After filling best, walk back: end = len(word); while end: piece = word[previous[end]:end]; end = previous[end]; then reverse. "
        "Unreached is None, not 0: a sum of 0.0 is legal.",
    ),
    misconceptions=(
        Misconception(
            name="longest piece first",
            code="""
def viterbi_segment(word, log_probs):
    pieces = []
    while word:
        for n in range(len(word), 0, -1):
            if word[:n] in log_probs:
                pieces.append(word[:n])
                word = word[n:]
                break
        else:
            raise ValueError("no segmentation")
    return pieces
""",
            says="Taking the longest piece is greedy: it may cost more in the end, or lead nowhere. Compare the sums of all ways, by position.",
        ),
        Misconception(
            name="longest piece first, from the end",
            code="""
def viterbi_segment(word, log_probs):
    pieces = []
    while word:
        for start in range(len(word)):
            if word[start:] in log_probs:
                pieces.append(word[start:])
                word = word[:start]
                break
        else:
            raise ValueError("no segmentation")
    return pieces[::-1]
""",
            says="Greedy from the end is still greedy. Compare the sums of all ways, by position.",
        ),
        Misconception(
            name="most probable first piece",
            code="""
def viterbi_segment(word, log_probs):
    pieces = []
    while word:
        fitting = [word[:n] for n in range(1, len(word) + 1) if word[:n] in log_probs]
        if not fitting:
            raise ValueError("no segmentation")
        piece = max(fitting, key=log_probs.get)
        pieces.append(piece)
        word = word[len(piece):]
    return pieces
""",
            says="The best first piece need not begin the best whole. Keep the best sum for every position instead of deciding at once.",
        ),
        _wrong_segmentation(
            "fewest pieces",
            "Fewer pieces are not always more probable. The sum of log-probabilities decides, not the count.",
            ("score = best[start][0] + log_probs[piece]", "score = best[start][0] - 1.0 + 1e-6 * log_probs[piece]"),
        ),
        _wrong_segmentation(
            "smallest sum",
            "Log-probabilities are negative: the greatest sum, nearest to 0, is the best.",
            ("score > best[end][0]", "score < best[end][0]"),
        ),
        _wrong_segmentation(
            "probabilities added up",
            "Probabilities of independent pieces multiply; their logarithms add. Adding exp(log p) rewards many pieces.",
            (
                "score = best[start][0] + log_probs[piece]",
                "score = best[start][0] + 2.718281828459045 ** log_probs[piece]",
            ),
        ),
        _wrong_segmentation(
            "probabilities multiplied",
            "The product of hundreds of probabilities is 0 in floating point, and then all ways look alike. Add logarithms.",
            ("best = [(0.0, [])]", "best = [(1.0, [])]"),
            (
                "score = best[start][0] + log_probs[piece]",
                "score = best[start][0] * 2.718281828459045 ** log_probs[piece]",
            ),
        ),
        _wrong_segmentation(
            "mean instead of sum",
            "Dividing by the number of pieces favours many good small ones. The sum is the logarithm of the whole's probability.",
            (
                "score = best[start][0] + log_probs[piece]",
                "n = len(best[start][1])\n                score = (best[start][0] * n + log_probs[piece]) / (n + 1)",
            ),
        ),
        _wrong_segmentation(
            "only the last piece counts",
            "The score of a way is the sum over all its pieces: add best[start].",
            ("score = best[start][0] + log_probs[piece]", "score = log_probs[piece]"),
        ),
        _wrong_segmentation(
            "the worst piece decides",
            "A chain is as strong as its weakest link, but a product is not. Add all log-probabilities.",
            ("score = best[start][0] + log_probs[piece]", "score = min(best[start][0], log_probs[piece])"),
        ),
        _wrong_segmentation(
            "score by length",
            "The log-probability of a piece stands in the table; do not weigh it by the piece's length.",
            ("best[start][0] + log_probs[piece]", "best[start][0] + log_probs[piece] * len(piece)"),
        ),
        _wrong_segmentation(
            "the first way found is kept",
            "When a better way reaches the same position, it replaces the old one: compare the sums.",
            (" or score > best[end][0]", ""),
        ),
        _wrong_segmentation(
            "the last way found is kept",
            "A later way replaces an earlier one only if its sum is greater.",
            ("if best[end] is None or score > best[end][0]:", "if True:"),
        ),
        _wrong_segmentation(
            "a sum of 0 taken for unreached",
            "0.0 is false in Python, and it is the sum at the start and the logarithm of probability 1. Ask `is not None`.",
            (
                "if best[start] is not None and piece",
                "if (start == 0 or best[start] is not None and best[start][0]) and piece",
            ),
            ("if best[-1] is None:", "if word and (best[-1] is None or not best[-1][0]):"),
        ),
        _wrong_segmentation(
            "pieces in reverse order",
            "Walking back collects the last piece first. Reverse the list at the end.",
            ("return best[-1][1]", "return best[-1][1][::-1]"),
        ),
        _wrong_segmentation(
            "first piece lost on the way back",
            "The way back ends at position 0, and the piece that starts there belongs to it.",
            ("return best[-1][1]", "return best[-1][1][1:]"),
        ),
        _wrong_segmentation(
            "cut one place off",
            "A back pointer is the position where the piece begins: word[previous:end]. Yours is one off.",
            ("best[start][1] + [piece]", "best[start][1] + [word[max(start - 1, 0):end]]"),
        ),
        _wrong_segmentation(
            "pieces of at most four characters",
            "No length is out of bounds: a piece may be as long as the word.",
            ("for start in range(end):", "for start in range(max(0, end - 4), end):"),
        ),
        _wrong_segmentation(
            "an empty list when nothing fits",
            "An empty list joins to an empty word. When no segmentation exists, raise ValueError.",
            ('raise ValueError("no segmentation")', "return []"),
        ),
        _wrong_segmentation(
            "the whole word when nothing fits",
            "The word itself is no piece of the table. When no segmentation exists, raise ValueError.",
            ('raise ValueError("no segmentation")', "return [word]"),
        ),
        _wrong_segmentation(
            "unknown characters let through",
            "There is no unknown token here: a character that no piece holds makes the segmentation impossible.",
            ("    best = [", "    log_probs = dict.fromkeys(word, -100.0) | log_probs\n    best = ["),
        ),
        _wrong_segmentation(
            "another error when nothing fits",
            "Indexing a position that was never reached raises TypeError or KeyError. Test for it and raise ValueError.",
            ('    if best[-1] is None:\n        raise ValueError("no segmentation")\n', ""),
        ),
        _wrong_segmentation(
            "the empty word refused",
            "The empty word has exactly one segmentation: no pieces.",
            ("if best[-1] is None:", "if not word or best[-1] is None:"),
        ),
    ),
    variants=(
        Variant(name="pieces kept with the sums", code=_FORWARD),
        Variant(
            name="recursion with a memory",
            code="""
import functools

def viterbi_segment(word, log_probs):
    @functools.lru_cache(None)
    def best(start):
        if start == len(word):
            return 0.0, ()
        found = []
        for piece in log_probs:
            if piece and word.startswith(piece, start):
                total, rest = best(start + len(piece))
                found.append((log_probs[piece] + total, (piece, *rest)))
        return max(found, key=lambda way: way[0], default=(float("-inf"), ()))

    total, pieces = best(0)
    if total == float("-inf"):
        raise ValueError(f"{word} cannot be cut")
    return list(pieces)
""",
        ),
        Variant(
            name="shortest path",
            code="""
import heapq

def viterbi_segment(word, log_probs):
    queue, done, came = [(0.0, 0, 0)], set(), {}
    while queue:
        cost, here, before = heapq.heappop(queue)
        if here in done:
            continue
        done.add(here)
        came[here] = before
        for there in range(here + 1, len(word) + 1):
            if word[here:there] in log_probs:
                heapq.heappush(queue, (cost - log_probs[word[here:there]], there, here))
    if len(word) not in done:
        raise ValueError("no way through")
    pieces, end = [], len(word)
    while end:
        pieces = [word[came[end] : end]] + pieces
        end = came[end]
    return pieces
""",
        ),
    ),
)

EXERCISES = [
    UTF8_ENCODE,
    UTF8_DECODE,
    UTF16_ENCODE,
    COUNT_PAIRS,
    MERGE_WORD,
    TRAIN_BPE,
    ENCODE,
    DECODE,
    COMPRESSION_RATIO,
    VITERBI,
]
