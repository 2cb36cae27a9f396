"""WordPiece: pairs merged for what they say about each other, words cut by greedy longest match.

Training scores a pair by f(ab) / (f(a) f(b)): how much more often the two meet than their frequencies alone would have it, which is
what raises the likelihood of the corpus most. Inner pieces are marked with `##`. Left out: BERT's lower-casing and accent
stripping, which lose text.

Source: Japanese and Korean Voice Search (Schuster and Nakajima 2012); BERT, arXiv:1810.04805.  Taught in: 01_tokenizer_unicode.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import regex

from llmcore.tokenizer.pretokenize import check_special_tokens, pieces_of, special_token_regex

INNER = "##"
"""Mark of a piece that does not begin a word."""

_WORD = regex.compile(r"\p{Han}|[\p{L}\p{M}\p{N}]+|[^\s\p{L}\p{M}\p{N}]")

Pair = tuple[str, str]


def words_of(text: str) -> list[str]:
    """Words as WordPiece takes them: runs of letters and digits, each sign and each Han character alone, white space dropped.

    >>> words_of("It's 汉字.")
    ['It', "'", 's', '汉', '字', '.']
    """
    return _WORD.findall(text)


def split_characters(word: str) -> tuple[str, ...]:
    """The word as single characters, all but the first marked as inner pieces.

    >>> split_characters("hug")
    ('h', '##u', '##g')
    """
    return tuple(character if place == 0 else INNER + character for place, character in enumerate(word))


def join_pieces(left: str, right: str) -> str:
    """The piece that two neighbours make.

    >>> join_pieces("h", "##ug")
    'hug'
    """
    return left + right.removeprefix(INNER)


@dataclass(frozen=True)
class WordPieceStep:
    """One step of training: the pair merged, its score, and its count."""

    pair: Pair
    score: float
    count: int


def merge_steps(word_counts: Mapping[str, int], num_merges: int, min_count: int = 1) -> Iterator[WordPieceStep]:
    """The merges of training in order, best score first; equal scores go to the more frequent pair, then to the greater pair.

    Pairs that occur fewer than `min_count` times are never merged: without a floor the first merges join characters that occur
    once.

    >>> [step.pair for step in merge_steps({"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}, 2)]
    [('##g', '##s'), ('p', '##u')]

    Taught in: 01_tokenizer_unicode.
    """
    words = [list(split_characters(word)) for word in word_counts]
    occurrences = list(word_counts.values())
    piece_counts: Counter[str] = Counter()
    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)

    def count(index: int, sign: int) -> None:
        word = words[index]
        for piece in word:
            piece_counts[piece] += sign * occurrences[index]
        for pair in pairwise(word):
            pair_counts[pair] += sign * occurrences[index]
            words_with[pair].add(index)

    for index in range(len(words)):
        count(index, +1)

    def order(pair: Pair) -> tuple[float, int, Pair]:
        together = pair_counts[pair]
        return together / (piece_counts[pair[0]] * piece_counts[pair[1]]), together, pair

    for _ in range(num_merges):
        candidates = [pair for pair, together in pair_counts.items() if together >= max(min_count, 1)]
        if not candidates:
            return
        best = max(candidates, key=order)
        yield WordPieceStep(best, order(best)[0], pair_counts[best])
        for index in words_with.pop(best):
            count(index, -1)
            words[index] = _merge(words[index], best)
            count(index, +1)
        pair_counts = +pair_counts


def _merge(word: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    at = 0
    while at < len(word):
        if tuple(word[at : at + 2]) == pair:
            merged.append(join_pieces(*pair))
            at += 2
        else:
            merged.append(word[at])
            at += 1
    return merged


def longest_match(
    word: str, vocab: Mapping[str, int] | set[str], unknown: str = "[UNK]", max_word_chars: int = 100
) -> list[str]:
    """The word cut from the left, each time the longest piece in the vocabulary; [unknown] when it cannot be cut to the end.

    >>> longest_match("unaffable", {"un", "una", "##aff", "##able", "##ffable"})
    ['una', '##ffable']

    Source: arXiv:1810.04805.  Taught in: 01_tokenizer_unicode.
    """
    if len(word) > max_word_chars:
        return [unknown]
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = INNER if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocab), None)
        if end is None:
            return [unknown]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


class WordPieceTokenizer:
    """A WordPiece tokenizer: pieces of words to ids and back. White space is not kept, unknown words are lost.

    >>> tokenizer = WordPieceTokenizer.train(["hug pug pun bun hugs"], vocab_size=12)
    >>> tokenizer.tokenize("bugs")
    ['bu', '##gs']

    Source: arXiv:1810.04805.  Taught in: 01_tokenizer_unicode.
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        unknown: str = "[UNK]",
        special_tokens: Iterable[str] = (),
        max_word_chars: int = 100,
    ) -> None:
        if unknown not in vocab:
            raise ValueError(f"vocab must hold the unknown token {unknown!r}; add it, or name the one it holds")
        if max_word_chars < 1:
            raise ValueError(f"max_word_chars must be at least 1, got {max_word_chars}")
        self.vocab = dict(vocab)
        self.unknown = unknown
        self.special_tokens = check_special_tokens(special_tokens)
        missing = [token for token in self.special_tokens if token not in self.vocab]
        if missing:
            raise ValueError(f"special token {missing[0]!r} is not in vocab; give it an id there")
        self.max_word_chars = max_word_chars
        self._pieces = {index: piece for piece, index in self.vocab.items()}
        if len(self._pieces) < len(self.vocab):
            raise ValueError("two pieces of vocab have one id; every piece needs its own")
        self._special_regex = special_token_regex(self.special_tokens)

    def __len__(self) -> int:
        """Number of pieces, special ones included."""
        return len(self.vocab)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = ("[UNK]",),
        *,
        min_count: int = 1,
        max_word_chars: int = 100,
    ) -> WordPieceTokenizer:
        """A tokenizer of at most `vocab_size` pieces; the first special token stands for unknown words.

        Ids: special tokens, then the characters in order, then merges.

        Raises: ValueError when vocab_size has no room for the special tokens and all characters, or no word is found.
        """
        special = check_special_tokens(special_tokens)
        if not special:
            raise ValueError("special_tokens must hold at least the unknown token, for example ('[UNK]',)")
        special_regex = special_token_regex(special)
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            for is_special, piece in pieces_of(text, special_regex):
                if not is_special:
                    counts.update(word for word in words_of(piece) if len(word) <= max_word_chars)
        if not counts:
            raise ValueError("the training texts hold no word; pass texts with letters or signs")
        alphabet = sorted({piece for word in counts for piece in split_characters(word)})
        least = len(special) + len(alphabet)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} ({len(special)} special tokens and {len(alphabet)} characters), "
                f"got {vocab_size}; ask for more or train on less varied text"
            )
        pieces = [*special, *alphabet]
        known = set(pieces)
        for step in merge_steps(counts, vocab_size, min_count):
            if len(pieces) == vocab_size:
                break
            piece = join_pieces(*step.pair)
            if piece not in known:  # two pairs may make the same piece
                pieces.append(piece)
                known.add(piece)
        return cls({piece: index for index, piece in enumerate(pieces)}, special[0], special, max_word_chars)

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text; special tokens stay whole."""
        pieces: list[str] = []
        for is_special, part in pieces_of(text, self._special_regex):
            if is_special:
                pieces.append(part)
                continue
            for word in words_of(part):
                pieces += longest_match(word, self.vocab, self.unknown, self.max_word_chars)
        return pieces

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return [self.vocab[piece] for piece in self.tokenize(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Words joined by single spaces: what is left of the text, whose white space was not kept.

        Raises: ValueError for an unknown id.
        """
        words: list[str] = []
        for index in ids:
            piece = self._pieces.get(int(index))
            if piece is None:
                raise ValueError(f"unknown id {index}; the vocabulary has {len(self)} pieces")
            if piece.startswith(INNER) and words and piece not in self.special_tokens:
                words[-1] += piece.removeprefix(INNER)
            else:
                words.append(piece)
        return " ".join(words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as one JSON file that `load` reads."""
        document = {"format": "llmcore-wordpiece", "unknown": self.unknown, "special_tokens": self.special_tokens}
        document |= {"max_word_chars": self.max_word_chars, "vocab": self.vocab}
        Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WordPieceTokenizer:
        """The tokenizer that `save` wrote.

        Raises: FileNotFoundError; ValueError when the file is something else.
        """
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document.get("format") != "llmcore-wordpiece":
            raise ValueError(f"{os.fspath(path)!r} was not written by WordPieceTokenizer.save")
        return cls(document["vocab"], document["unknown"], document["special_tokens"], document["max_word_chars"])
