"""The byte-level BPE tokenizer: train, encode, decode, stream, save and load.

Ids when training: special tokens first, then the 256 bytes, then merges; ties go to the greater pair of bytes. Small texts are
worked on in plain Python (`bpe`); large ones load the compiled twin (`_scan`, `_merge`, `_encode`), which gives the same ids.
Left out: templates that add ids around a text, padding and truncation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import regex

from llmcore.tokenizer import bpe
from llmcore.tokenizer.bpe import Pair
from llmcore.tokenizer.pretokenize import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    NORMAL_FORMS,
    Pattern,
    check_special_tokens,
    encode_utf8,
    normalize,
    pieces_of,
    resolve_pattern,
    safe_pieces,
    slices,
    special_token_regex,
    words_of,
)
from llmcore.tokenizer.training import Engine, Source, in_batches, learn_from
from llmcore.tokenizer.vocabulary import check_tokens, divide_vocab, number_special

if TYPE_CHECKING:
    from llmcore.tokenizer._encode import Encoder

_COMPILED_FROM_CHARS = 8_000_000
"""So much text, in one call or in many, is worth loading the compiled code for, which takes a second, or ten the first time."""
_SHORT_CHARS = 300
"""Shorter texts cost less in plain Python, whose calls are cheaper."""
_CACHED_WORDS = 1 << 16
_STREAM_CHARS = 1 << 12
_STREAM_CACHED_WORDS = 1 << 12
_PIECE_CHARS = 1 << 20
_BATCH_CHARS = 1 << 18


@runtime_checkable
class ArrayLike(Protocol):
    """A NumPy array or a tensor."""

    def tolist(self) -> list[int]:
        """Its values as Python numbers."""


class BPETokenizer:
    """A byte-level BPE tokenizer: any text in, ids out, and the same text back.

    Build one with `train`, `from_merges`, `load`, `from_tokenizer_json` or `from_tiktoken`.

    >>> tokenizer = BPETokenizer.train(["hug hug pug"], vocab_size=260, special_tokens=["<end>"])
    >>> tokenizer.merges
    [(b'u', b'g'), (b'h', b'ug'), (b'p', b'ug')]

    Source: arXiv:1508.07909; on bytes: GPT-2 (Radford et al. 2019).  Taught in: 01_tokenizer_unicode.
    """

    vocab: dict[int, bytes]
    """The bytes of every id, special tokens included."""
    token_ids: dict[bytes, int]
    """The id of every ordinary token."""
    merges: list[Pair]
    """The merges in the order in which they were learned, which is the order in which encoding tries them."""
    special_tokens: dict[str, int]
    """The id of every special token."""
    pattern: Pattern
    """The regular expression of a word, or several that cut one after another."""
    normalization: str | None
    """Normal form put on the text between special tokens before encoding; None, as trained, keeps the text as it is."""
    whole_words: bool
    """True when a word that is itself a token takes that id without merging, as tiktoken and Llama 3 have it."""
    engine: Engine = "auto"
    """Which twin encodes: plain Python, compiled code, or the latter once so much text has come that loading it pays."""

    def __init__(
        self,
        token_ids: Mapping[bytes, int],
        merges: Iterable[Pair],
        special_tokens: Mapping[str, int],
        pattern: Pattern = GPT2_PATTERN,
        *,
        normalization: str | None = None,
        whole_words: bool = False,
    ) -> None:
        self.pattern = resolve_pattern(pattern)
        self.merges = [(bytes(left), bytes(right)) for left, right in merges]
        self.special_tokens = dict(special_tokens)
        check_special_tokens(self.special_tokens)
        if normalization is not None and normalization not in NORMAL_FORMS:
            raise ValueError(f"normalization must be None or one of {', '.join(NORMAL_FORMS)}, got {normalization!r}")
        self.normalization = normalization
        self.whole_words = whole_words
        self.token_ids = dict(token_ids)
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        check_tokens(self.token_ids, self.special_tokens, self.merges, self._ranks)
        specials = {index: token.encode("utf-8") for token, index in self.special_tokens.items()}
        self.vocab = dict(sorted({**{index: token for token, index in token_ids.items()}, **specials}.items()))
        self._special_regex = special_token_regex(self.special_tokens)
        self._words: dict[str, list[int]] = {}
        self._encoder: Encoder | None = None
        self._has_all_bytes = all(bytes([byte]) in self.token_ids for byte in range(256))
        self._chars_encoded = 0

    def __len__(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.vocab)

    def __repr__(self) -> str:
        return f"BPETokenizer({len(self)} tokens, {len(self.merges)} merges, {len(self.special_tokens)} special)"

    @classmethod
    def train(
        cls,
        source: Source,
        vocab_size: int,
        special_tokens: Iterable[str] = (),
        pattern: Pattern | Sequence[str] = GPT2_PATTERN,
        *,
        engine: Engine = "auto",
        num_workers: int | None = None,
    ) -> BPETokenizer:
        """A tokenizer of at most `vocab_size` tokens learned from texts; fewer when no pair is left to merge.

        A str or Path is a UTF-8 file, read in pieces, so that it may be larger than memory; an iterable gives texts as str and
        files as Path (a list of which every str names a file is a list of files). Each text is a document: no word crosses its
        edges. Special tokens are never split, counted or merged. `engine` chooses the plain Python or the compiled twin,
        which else the size of the text does. `num_workers` count words: threads for the patterns in PATTERNS (by default one
        a processor), processes for another (by default none).

        >>> BPETokenizer.train(["aaaa"], vocab_size=300).merges  # no pair is left after two merges
        [(b'a', b'a'), (b'aa', b'aa')]

        Raises: ValueError for a vocabulary below the special tokens and 256 bytes, doubled special tokens, an empty source, or
        a file that is not UTF-8; FileNotFoundError.
        Source: arXiv:1508.07909, algorithm 1.  Taught in: 01_tokenizer_unicode.
        """
        special = check_special_tokens(special_tokens)
        pattern = resolve_pattern(pattern)
        least = len(special) + 256
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} ({len(special)} special tokens and 256 bytes), got {vocab_size}; "
                "ask for more, each one above that is a merge"
            )
        merges = learn_from(source, vocab_size - least, special, pattern, engine, num_workers)
        token_ids = {bytes([byte]): len(special) + byte for byte in range(256)}
        for left, right in merges:
            token_ids.setdefault(left + right, len(special) + len(token_ids))
        return cls(token_ids, merges, {token: index for index, token in enumerate(special)}, pattern)

    @classmethod
    def from_merges(
        cls,
        vocab: Mapping[int, bytes],
        merges: Iterable[Pair],
        special_tokens: Iterable[str] | Mapping[str, int] = (),
        pattern: Pattern | Sequence[str] = GPT2_PATTERN,
        *,
        normalization: str | None = None,
        whole_words: bool = False,
    ) -> BPETokenizer:
        """The tokenizer of a vocabulary and the merges that made it.

        A special token keeps the id that has its bytes in `vocab`; one that is not there gets the next id after the largest.

        Raises: ValueError when two ids have the same bytes or a merge joins or makes what is not in the vocabulary.
        """
        token_ids, special_ids = divide_vocab(vocab, special_tokens)
        return cls(
            token_ids,
            merges,
            special_ids,
            resolve_pattern(pattern),
            normalization=normalization,
            whole_words=whole_words,
        )

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of a text. With `allow_special=False` the names of special tokens are ordinary text, as users' text should be.

        >>> BPETokenizer.train(["low low"], vocab_size=258).encode("low!")
        [257, 33]

        Raises: ValueError for a lone surrogate, or a byte that has no id.
        Taught in: 01_tokenizer_unicode.
        """
        return self._encode(text, allow_special, self._compiled_encoder(len(text)))

    def encode_batch(
        self, texts: Iterable[str], *, allow_special: bool = True, num_threads: int | None = None
    ) -> list[list[int]]:
        """The ids of each text; large batches are shared out to threads, one a processor (at most 8) unless told otherwise."""
        texts = list(texts)
        num_chars = sum(map(len, texts))
        encoder = self._compiled_encoder(num_chars)
        if encoder is None:
            return [self._encode(text, allow_special, None) for text in texts]
        threads = num_threads or min(os.cpu_count() or 1, 8)
        encoders: SimpleQueue[Encoder] = SimpleQueue()
        for _ in range(threads):
            encoders.put(encoder.twin())

        def encode_some(some: list[str]) -> list[list[int]]:
            own = encoders.get()
            try:
                return self._encode_compiled(some, self._special_regex if allow_special else None, own)
            finally:
                encoders.put(own)

        if threads == 1 or num_chars < 2 * _BATCH_CHARS:
            return [ids for some in in_batches(texts, _BATCH_CHARS) for ids in encode_some(some)]
        with ThreadPoolExecutor(threads) as executor:
            return [ids for some in executor.map(encode_some, in_batches(texts, _BATCH_CHARS)) for ids in some]

    def encode_iterable(self, chunks: Iterable[str]) -> Iterator[int]:
        """The ids of the joined chunks, one by one, in constant memory: the same as `encode("".join(chunks))`.

        Lines of a file, fixed-size blocks or single characters may be chunks. For a pattern that is not one of PATTERNS the text
        between special tokens is held until it is complete.

        >>> tokenizer = BPETokenizer.train(["low low"], vocab_size=258)
        >>> list(tokenizer.encode_iterable(["l", "ow", "!"]))
        [257, 33]
        """
        for piece in safe_pieces(chunks, self.pattern, list(self.special_tokens), piece_chars=_STREAM_CHARS):
            encoder = self._compiled_encoder(len(piece))
            yield from self._encode(piece, True, encoder, most_cached=_STREAM_CACHED_WORDS)

    def _encode(
        self, text: str, allow_special: bool, encoder: Encoder | None, most_cached: int = _CACHED_WORDS
    ) -> list[int]:
        ids: list[int] = []
        special, pieces = self._special_regex if allow_special else None, iter([text])
        if len(text) > _PIECE_CHARS:  # so that what is kept beside the ids stays small
            pieces = safe_pieces(slices(text), self.pattern, list(self.special_tokens) if allow_special else ())
        for piece in pieces:
            if encoder is not None:
                ids += self._encode_compiled([piece], special, encoder)[0]
                continue
            for is_special, part in pieces_of(piece, special):
                if is_special:
                    ids.append(self.special_tokens[part])
                else:
                    self._encode_words(part, ids, most_cached)
        return ids

    def _encode_compiled(self, texts: list[str], special: regex.Pattern | None, encoder: Encoder) -> list[list[int]]:
        """The ids of each text, all that lies between special tokens in one call of the encoder."""
        between: list[bytes] = []
        specials: list[list[int]] = []
        for text in texts:
            ids, end = [], 0
            for match in special.finditer(text) if special else ():
                between.append(encode_utf8(normalize(text[end : match.start()], self.normalization)))
                ids.append(self.special_tokens[match.group()])
                end = match.end()
            between.append(encode_utf8(normalize(text[end:] if end else text, self.normalization)))
            specials.append(ids)
        encoded = iter(encoder.encode(between, self.pattern))
        found = []
        for ids in specials:
            whole = next(encoded)
            for index in ids:
                whole.append(index)
                whole += next(encoded)
            found.append(whole)
        return found

    def _compiled_encoder(self, num_chars: int) -> Encoder | None:
        """The compiled twin when it is told to work, or pays for so long a text after so much text; else None."""
        self._chars_encoded += num_chars
        pays = self._chars_encoded >= _COMPILED_FROM_CHARS and num_chars >= _SHORT_CHARS
        wanted = self.engine == "compiled" or (self.engine == "auto" and pays)
        if not wanted or not self._has_all_bytes:
            return None
        if self._encoder is None:
            from llmcore.tokenizer._encode import Encoder

            self._encoder = Encoder(self.token_ids, self.merges, self.whole_words)
        return self._encoder

    def decode_bytes(self, ids: Iterable[int] | ArrayLike) -> bytes:
        """The bytes that the ids stand for, which need not be whole characters.

        Raises: ValueError for an unknown id.
        """
        ids = ids.tolist() if isinstance(ids, ArrayLike) else list(ids)
        try:
            return b"".join(map(self.vocab.__getitem__, ids))
        except KeyError:
            place = next(place for place, index in enumerate(ids) if index not in self.vocab)
            raise ValueError(
                f"unknown id {ids[place]!r} at position {place}; the vocabulary has {len(self)} ids up to {max(self.vocab)}"
            ) from None

    def decode(self, ids: Iterable[int] | ArrayLike) -> str:
        """The text that the ids stand for; bytes that are no UTF-8 become U+FFFD.

        >>> BPETokenizer.train(["low low"], vocab_size=258).decode([257, 33, 0xC3])
        'low!�'

        Raises: ValueError for an unknown id.
        Taught in: 01_tokenizer_unicode.
        """
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def _encode_words(self, text: str, ids: list[int], most_cached: int) -> None:
        cache = self._words
        for word in words_of(normalize(text, self.normalization), self.pattern):
            known = cache.get(word)
            if known is None:
                known = self._encode_word(encode_utf8(word))
                if len(cache) < most_cached:
                    cache[word] = known
            ids += known

    def _encode_word(self, word: bytes) -> list[int]:
        if self.whole_words and word in self.token_ids:
            return [self.token_ids[word]]
        try:
            return [self.token_ids[token] for token in bpe.encode_word(word, self._ranks)]
        except KeyError as error:
            raise ValueError(
                f"byte {error.args[0]!r} of the word {word!r} has no id in this vocabulary; add all 256 bytes to it"
            ) from None

    def empty_cache(self) -> None:
        """Forget the words met so far, whose ids are kept to encode them faster (at most some megabytes)."""
        self._words.clear()
        if self._encoder is not None:
            self._encoder.empty_cache()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as one JSON file that `load` reads."""
        from llmcore.tokenizer.formats import write_native

        write_native(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """The tokenizer that `save` wrote.

        Raises: FileNotFoundError; ValueError when the file is something else or damaged.
        """
        from llmcore.tokenizer.formats import read_native

        return cls(**read_native(path))

    def to_tokenizer_json(self, path: str | os.PathLike[str]) -> None:
        """Write a Hugging Face `tokenizer.json`, which gives the same ids when `tokenizers` or `transformers` load it.

        Raises: ValueError when a special token reads like an ordinary token in that format.
        """
        from llmcore.tokenizer.formats import write_tokenizer_json

        write_tokenizer_json(self, path)

    @classmethod
    def from_tokenizer_json(cls, path: str | os.PathLike[str]) -> BPETokenizer:
        """The tokenizer of a Hugging Face `tokenizer.json` that holds a byte-level BPE.

        Ids equal those of `tokenizers` with `add_special_tokens=False`.

        Raises: FileNotFoundError; ValueError naming the part that this class cannot do.
        """
        from llmcore.tokenizer.formats import read_tokenizer_json

        return cls(**read_tokenizer_json(path))

    def to_tiktoken(self, path: str | os.PathLike[str]) -> None:
        """Write a tiktoken rank file: base64 of each ordinary token and its id. Special tokens are not part of that format.

        Raises: ValueError when the ids do not rise with the merges, which the format takes for granted.
        """
        from llmcore.tokenizer.formats import write_tiktoken

        write_tiktoken(self, path)

    @classmethod
    def from_tiktoken(
        cls,
        path: str | os.PathLike[str],
        special_tokens: Mapping[str, int] | Iterable[str] = (),
        pattern: Pattern | Sequence[str] = CL100K_PATTERN,
    ) -> BPETokenizer:
        """The tokenizer of a tiktoken rank file, with the special tokens and the pattern that the file does not hold.

        Special tokens without ids get the ones after the largest rank.

        Raises: FileNotFoundError; ValueError for a line that is not base64 and a rank.
        """
        from llmcore.tokenizer.formats import read_tiktoken

        token_ids, merges = read_tiktoken(path)
        special = number_special(special_tokens, 1 + max(token_ids.values(), default=-1))
        return cls(token_ids, merges, special, resolve_pattern(pattern), whole_words=True)
