"""llmcore.text: the hand-written codecs against Python's own, and what readers count as characters."""

import random
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from refused import refused

from llmcore import text

CHARACTERS = st.integers(0, 0x10FFFF).filter(lambda number: number not in text.SURROGATES)
EDGES = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
CODECS = {"utf-8": "utf-8", "utf-16": "utf-16-be", "utf-32": "utf-32-be"}
DECODERS = {"utf-8": text.utf8_decode, "utf-16": text.utf16_decode, "utf-32": text.utf32_decode}


def utf8_with_a_boundary_one_too_high(code_point: int) -> bytes:
    return bytes([code_point]) if code_point <= 0x80 else chr(code_point).encode()


@pytest.mark.parametrize("number", EDGES)
@pytest.mark.parametrize("encoding", text.ENCODINGS)
def test_edges_of_every_length_equal_python(number, encoding):
    assert text.encode_text(chr(number), encoding) == chr(number).encode(CODECS[encoding])


def test_those_edges_catch_a_boundary_one_too_high():
    assert any(utf8_with_a_boundary_one_too_high(number) != chr(number).encode() for number in EDGES)


@settings(max_examples=200, deadline=None)
@given(st.lists(CHARACTERS, max_size=8), st.sampled_from(text.ENCODINGS))
def test_encoding_equals_python_and_decoding_gives_it_back(numbers, encoding):
    written = "".join(map(chr, numbers))
    data = text.encode_text(written, encoding)
    assert data == written.encode(CODECS[encoding])
    assert DECODERS[encoding](data) == numbers


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=8))
@example(b"\xc0\x80")
@example(b"\xed\xa0\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xf8\x88\x80\x80\x80")
@example(b"\xe6\xb1")
@example(b"\x80")
def test_utf8_decoding_is_as_strict_as_python(data):
    try:
        expected = [ord(character) for character in data.decode("utf-8")]
    except UnicodeDecodeError:
        with refused(r"byte|surrogate|0x10FFFF"):
            text.utf8_decode(data)
    else:
        assert text.utf8_decode(data) == expected


def test_random_leads_and_continuations_are_as_strict_as_python():
    rng = random.Random(5)
    pieces = [b"\xc2", b"\xe0", b"\xed", b"\xf0", b"\xf4", b"\x80", b"\x8f", b"\x90", b"\x9f", b"\xa0", b"\xbf", b"a"]
    for _ in range(3000):
        data = b"".join(rng.choices(pieces, k=rng.randint(1, 6)))
        try:
            expected = list(map(ord, data.decode("utf-8")))
        except UnicodeDecodeError:
            with refused(r"byte|surrogate|0x10FFFF"):
                text.utf8_decode(data)
        else:
            assert text.utf8_decode(data) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=8), st.sampled_from(["utf-16", "utf-32"]))
@example(b"\xd8\x3d", "utf-16")
@example(b"\xde\x00\xd8\x3d", "utf-16")
@example(b"\x00\x00\xd8\x00", "utf-32")
def test_wide_decoding_is_as_strict_as_python(data, encoding):
    try:
        expected = list(map(ord, data.decode(CODECS[encoding])))
    except UnicodeDecodeError:
        with refused(r"byte|surrogate|0x10FFFF"):
            DECODERS[encoding](data)
    else:
        assert DECODERS[encoding](data) == expected


@pytest.mark.parametrize("encode", [text.utf8_encode, text.utf16_encode, text.utf32_encode])
@pytest.mark.parametrize("number", [-1, 0xD800, 0xDFFF, 0x110000])
def test_what_is_no_character_is_refused(encode, number):
    with refused(r"surrogate|0x10FFFF"):
        encode(number)


@settings(max_examples=200, deadline=None)
@given(CHARACTERS, st.sampled_from(text.ENCODINGS))
def test_the_bit_layout_rebuilds_the_code_point(number, encoding):
    layout = text.bit_layout(number, encoding)
    payload = 0
    for bits, sources in zip(layout.bits(), layout.sources, strict=True):
        for bit, source in zip(bits, sources, strict=True):
            if source is not None:
                payload |= bit << source
    sources = [source for row in layout.sources for source in row if source is not None]
    assert payload == layout.payload
    assert sources == sorted(set(sources), reverse=True)
    assert layout.payload == number - (0x10000 if encoding == "utf-16" and number > 0xFFFF else 0)


def test_graphemes_are_what_a_reader_counts():
    assert text.graphemes("👩‍👩‍👧🇩🇪e\u0301각") == ["👩‍👩‍👧", "🇩🇪", "e\u0301", "각"]
    assert text.text_sizes("👩‍👩‍👧") == text.TextSizes(1, 5, 18, 16, 20)


def test_normal_forms_are_those_of_unicodedata_and_only_those():
    for form in text.NORMAL_FORMS:
        assert text.normalize("e\u0301ﬁİ", form) == unicodedata.normalize(form, "e\u0301ﬁİ")
    with refused("NFC, NFD"):
        text.normalize("a", "nfc")


def test_planes_have_their_names():
    assert text.plane(0x20000) == (2, "Supplementary Ideographic")
    assert text.plane(0x40000) == (4, "unassigned")


def test_mojibake_and_tables_of_encodings():
    assert text.mojibake("汉", "utf-8", "gbk") == "姹\ufffd"
    assert text.encodings_of("é", ["ascii", "latin-1", "utf-8"]) == {
        "ascii": None,
        "latin-1": b"\xe9",
        "utf-8": b"\xc3\xa9",
    }


def test_the_slope_of_a_power_law_is_its_exponent():
    assert text.zipf_slope([10**9 // rank**2 for rank in range(1, 50)]) == pytest.approx(-2.0, abs=1e-5)
    with refused("at least two"):
        text.zipf_slope([3, 0])


def test_the_same_text_is_in_many_scripts_and_in_normal_form():
    samples = text.same_text()
    scripts = {
        unicodedata.name(character).split()[0]
        for sample in samples.values()
        for character in sample
        if character.isalpha()
    }
    assert len(samples) >= 23
    assert {"Python", "Mathematics", "Emoji"} <= set(samples)
    assert {
        "CJK",
        "HANGUL",
        "HIRAGANA",
        "ARABIC",
        "HEBREW",
        "DEVANAGARI",
        "BENGALI",
        "TAMIL",
        "THAI",
        "GREEK",
    } <= scripts
    assert {"CYRILLIC", "GEORGIAN", "ARMENIAN", "ETHIOPIC", "LATIN"} <= scripts
    assert all(sample == unicodedata.normalize("NFC", sample) for sample in samples.values())


def test_texts_that_are_always_there():
    assert len(text.python_documentation()) > 300_000
    source = text.standard_library_sources(30_000)
    assert 20_000 < len(source.encode()) <= 30_000
    assert source.endswith("\n")
    assert source == text.standard_library_sources(30_000)
    with refused("at least 1"):
        text.standard_library_sources(0)
