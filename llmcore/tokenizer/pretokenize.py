"""Cutting text into the words that BPE merges inside of, and long streams into pieces that may be cut alone.

A pre-token (here: word) is one match of a pattern; BPE never merges across its edges. Special tokens are cut out first and
belong to no word. Not here: the compiled scanner of the same patterns (`_scan`).
"""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import regex

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's words: a contraction, or letters, digits or signs with at most one space before, or white space."""

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

CL100K_PATTERN = (
    rf"{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
"""GPT-4's words: digits in threes, any one sign may open a run of letters, line ends stay with the signs before them."""

LLAMA3_PATTERN = CL100K_PATTERN
"""Llama 3 cuts as GPT-4 does."""

QWEN2_PATTERN = CL100K_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
"""GPT-4's words with every digit alone."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
"""GPT-4o's words: camelCase is cut at the capital, marks belong to their letters, a contraction stays with its word."""

PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "cl100k": CL100K_PATTERN,
    "llama3": LLAMA3_PATTERN,
    "qwen2": QWEN2_PATTERN,
    "o200k": O200K_PATTERN,
}

Pattern = str | tuple[str, ...]
"""One regular expression, a name in PATTERNS, or several expressions that cut one after another."""

NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")

# Between these neighbours every pattern above ends a word, whatever stands further away, and no normal form joins the two
# sides: after a line end that stands alone, before a space that stands alone, and between a Han letter and a full-width stop.
_BREAK = regex.compile(r"(?<=\S\n)(?=[a-zA-Z0-9])|(?<=[\p{L}\p{N}])(?= [a-zA-Z0-9])|(?<=\p{Han})(?=[\u3001\u3002])")


def resolve_pattern(pattern: Pattern | Sequence[str]) -> Pattern:
    """The regular expression that a name in PATTERNS stands for; any other pattern as it is, checked.

    >>> resolve_pattern("gpt2") == GPT2_PATTERN
    True

    Raises: ValueError when it is no regular expression.
    """
    if isinstance(pattern, str):
        pattern = PATTERNS.get(pattern, pattern)
        _compiled(pattern)
        return pattern
    parts = tuple(PATTERNS.get(part, part) for part in pattern)
    if not parts:
        raise ValueError("pattern is an empty list; pass one regular expression, or a name: " + ", ".join(PATTERNS))
    for part in parts:
        _compiled(part)
    return parts[0] if len(parts) == 1 else parts


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> regex.Pattern:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(
            f"pattern {pattern!r} is not a regular expression: {error}; names are {', '.join(PATTERNS)}"
        ) from None


def words_of(text: str, pattern: Pattern = GPT2_PATTERN) -> list[str]:
    """The words of a text without special tokens, in order; joined they give the text back.

    What a pattern of your own does not match becomes a word too, so that nothing is lost.

    >>> words_of("Hello world, it's 2024")
    ['Hello', ' world', ',', ' it', "'s", ' 2024']

    Source: GPT-2 (Radford et al. 2019).  Taught in: 01_tokenizer_unicode.
    """
    if isinstance(pattern, tuple):
        words = [text] if text else []
        for part in pattern:
            words = [piece for word in words for piece in words_of(word, part)]
        return words
    pattern = PATTERNS.get(pattern, pattern)
    if pattern in PATTERNS.values():
        return _compiled(pattern).findall(text)
    words, end = [], 0
    for match in _compiled(pattern).finditer(text):
        if match.end() > match.start():
            words += [text[end : match.start()], match.group()]
            end = match.end()
    return [word for word in [*words, text[end:]] if word]


def encode_utf8(text: str) -> bytes:
    """The UTF-8 bytes of a text.

    Raises: ValueError with what stands before a lone surrogate, which UTF-8 cannot write.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text holds a lone surrogate U+{ord(text[error.start]):04X} after "
            f"{text[max(0, error.start - 20) : error.start]!r}, which UTF-8 cannot write; replace it first: "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None


def check_special_tokens(special_tokens: Iterable[str]) -> list[str]:
    """The special tokens as a list.

    Raises: ValueError when one is empty, not text, or listed twice.
    """
    if isinstance(special_tokens, str):
        raise ValueError(
            f"special_tokens must be a list of str, got the str {special_tokens!r}; pass [{special_tokens!r}]"
        )
    tokens = list(special_tokens)
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token:
            raise ValueError(f"special token {index} must be a non-empty str, got {token!r}")
        encode_utf8(token)
    doubled = [token for token, count in Counter(tokens).items() if count > 1]
    if doubled:
        raise ValueError(f"special tokens must differ, got {doubled[0]!r} more than once; list each once")
    return tokens


def special_token_regex(special_tokens: Iterable[str]) -> regex.Pattern | None:
    """The expression that finds special tokens, the longest first where several begin; None when there are none."""
    tokens = sorted(special_tokens, key=len, reverse=True)
    return regex.compile("|".join(regex.escape(token) for token in tokens)) if tokens else None


def split_special(text: str, special_tokens: Iterable[str]) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it is a special token; the longest special token wins.

    >>> split_special("a<e><e>!", ["<e>", "<e><e>"])
    [(False, 'a'), (True, '<e><e>'), (False, '!')]

    Taught in: 01_tokenizer_unicode.
    """
    return list(pieces_of(text, special_token_regex(special_tokens)))


def pieces_of(text: str, special: regex.Pattern | None) -> Iterator[tuple[bool, str]]:
    """The text cut at the matches of `special_token_regex`, each piece with whether it is a special token."""
    end = 0
    for match in special.finditer(text) if special else ():
        if match.start() > end:
            yield False, text[end : match.start()]
        yield True, match.group()
        end = match.end()
    if end < len(text):
        yield False, text[end:]


def normalize(text: str, form: str | None) -> str:
    """The text in a Unicode normal form, or as it is when the form is None."""
    return text if form is None else unicodedata.normalize(form, text)


def count_words(text: str, pattern: Pattern = GPT2_PATTERN, special_tokens: Iterable[str] = ()) -> Counter[bytes]:
    """How often each word (UTF-8) occurs outside special tokens.

    >>> count_words("to be or not to be", special_tokens=["or"])
    Counter({b' be': 2, b'to': 1, b' ': 1, b' not': 1, b' to': 1})

    Taught in: 01_tokenizer_unicode.
    """
    counts: Counter[str] = Counter()
    for is_special, piece in pieces_of(text, special_token_regex(special_tokens)):
        if not is_special:
            counts.update(words_of(piece, pattern))
    return Counter({encode_utf8(word): count for word, count in counts.items()})


def safe_pieces(
    chunks: Iterable[str], pattern: Pattern, special_tokens: Sequence[str] = (), piece_chars: int = 1 << 20
) -> Iterator[str]:
    """The joined chunks in pieces of about `piece_chars` characters whose words are, in order, the words of the whole.

    Pieces end beside special tokens and, for the patterns in PATTERNS, where all of them end a word. Text that offers no
    such place, or a pattern of your own without special tokens, is held until it ends.
    """
    special = special_token_regex(special_tokens)
    margin = max((len(token) for token in special_tokens), default=1)
    breaks = _BREAK if pattern in PATTERNS.values() else None
    held: list[str] = []
    held_chars, wanted = 0, piece_chars
    for chunk in chunks:
        held.append(chunk)
        held_chars += len(chunk)
        if held_chars < wanted:
            continue
        buffer = "".join(held)
        cut = _last_cut(buffer, breaks, special, margin)
        if cut:
            yield buffer[:cut]
        held, held_chars = [buffer[cut:]], len(buffer) - cut
        wanted = max(piece_chars, 2 * held_chars)  # doubling: a text without cuts is not searched again and again
    if held_chars:
        yield "".join(held)


def _last_cut(buffer: str, breaks: regex.Pattern | None, special: regex.Pattern | None, margin: int) -> int:
    """The last place where the buffer may be cut, 0 when there is none.

    What begins in the last `margin - 1` characters may become a special token, so no cut lies there.
    """
    limit, low = len(buffer) - margin, 0
    for match in special.finditer(buffer) if special else ():
        if match.end() > limit:
            if match.start() <= limit:
                return match.start()
            break
        low = match.end()
    high, window = limit, 4096
    while breaks and high > low:  # from the end backwards: the last break is wanted
        start = max(low, high - window)
        found = [match.start() for match in breaks.finditer(buffer, start, high + 2) if start < match.start() <= high]
        if found:
            return found[-1]
        high, window = start, window * 4
    return low


def slices(text: str, size: int = 1 << 20) -> Iterator[str]:
    """The text in slices of so many characters."""
    return (text[start : start + size] for start in range(0, len(text), size))


def read_text(path: str | os.PathLike[str], block_bytes: int = 1 << 20) -> Iterator[str]:
    """The text of a UTF-8 file block by block, line ends as they are in the file.

    Raises: FileNotFoundError; ValueError naming the file and the offset of the first byte that is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_source(path) as file:
        read_bytes = 0
        while True:
            block = file.read(block_bytes)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise not_utf8(path, read_bytes - pending + error.start, error) from None
            read_bytes += len(block)
            if text:
                yield text
            if not block:
                return


def open_source(path: str | os.PathLike[str]):
    """The file opened for reading bytes.

    Raises: FileNotFoundError or ValueError naming the file and the reason.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        shown = str(path) if len(str(path)) < 200 else str(path)[:200] + "..."
        raise FileNotFoundError(f"no file {shown!r}; to train on a text itself, pass it in a list: [text]") from None
    except OSError as error:
        raise ValueError(
            f"cannot read {str(path)[:200]!r}: {error.strerror or error}; pass a readable text file"
        ) from None


def not_utf8(path: str | os.PathLike[str], offset: int, error: UnicodeDecodeError) -> ValueError:
    """The error that names a file and the offset of its first byte that is not UTF-8."""
    return ValueError(
        f"{os.fspath(path)!r} is not UTF-8 at byte {offset}: {error.reason}; convert it first "
        "(iconv -t utf-8), or open it with its own encoding and pass the text in a list"
    )


def sources_of(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path | str]:
    """Documents of a training source: a Path for each file, a str for each text.

    One str is a path. In an iterable, Path objects are files and str are texts, unless the iterable is a list or tuple of
    which every str names a file.

    >>> list(sources_of(["a text", "another"]))
    ['a text', 'another']
    """
    if isinstance(source, (str, os.PathLike)):
        yield Path(source)
        return
    as_paths = isinstance(source, (list, tuple)) and bool(source) and all(map(_names_a_file, source))
    for item in source:
        if isinstance(item, os.PathLike) or as_paths:
            yield Path(item)
        elif isinstance(item, str):
            yield item
        else:
            raise ValueError(
                f"a training source must give str or Path, got {type(item).__name__}; decode bytes to str first"
            )


def _names_a_file(item: object) -> bool:
    if isinstance(item, os.PathLike):
        return True
    if not isinstance(item, str) or not item or len(item) > 4096 or "\n" in item or "\0" in item:
        return False
    try:
        return os.path.isfile(item)
    except (OSError, ValueError):
        return False
