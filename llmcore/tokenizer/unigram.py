"""Unigram: a probability for every piece, words cut so that the product is largest, pieces pruned that matter least.

Training runs the other way round from BPE: from far too many pieces down. EM gives each piece the share of the corpus that it is
expected to cover over all segmentations; then the pieces go whose loss costs the corpus least likelihood.

Source: Subword Regularization, arXiv:1804.10959, section 3.2; SentencePiece, arXiv:1808.06226.  Taught in: 01_tokenizer_unicode.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from math import exp, inf, isfinite, log, log1p
from pathlib import Path

import regex

from llmcore.tokenizer.pretokenize import check_special_tokens, pieces_of, special_token_regex

SPACE = "\u2581"
"""Stands for a space, so that pieces hold all of the text."""

_WORD = regex.compile(rf"{SPACE}?[^{SPACE}]+|{SPACE}")
_UNKNOWN_PENALTY = 10.0


def words_of(text: str) -> list[str]:
    """The text cut before its spaces, which become the visible mark.

    >>> words_of("to be")
    ['to', '▁be']
    """
    return _WORD.findall(text.replace(" ", SPACE))


def _longest(log_probs: Mapping[str, float]) -> int:
    return max(map(len, log_probs), default=1)


def viterbi_segment(word: str, log_probs: Mapping[str, float]) -> list[str]:
    """The segmentation of a word whose pieces have the largest summed log probability.

    Among equals the one whose last piece is longest, then the one before it, and so on.

    >>> viterbi_segment("abc", {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -1.5, "bc": -1.2})
    ['a', 'bc']

    Raises: ValueError when no segmentation exists.
    Source: arXiv:1804.10959, eq. 3.  Taught in: 01_tokenizer_unicode.
    """
    pieces, _ = _viterbi(word, log_probs, _longest(log_probs))
    return pieces


def _viterbi(word: str, log_probs: Mapping[str, float], longest: int) -> tuple[list[str], float]:
    best = [0.0] + [-inf] * len(word)
    cut = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for start in range(max(0, end - longest), end):
            log_prob = log_probs.get(word[start:end])
            if log_prob is not None and best[start] + log_prob > best[end]:
                best[end], cut[end] = best[start] + log_prob, start
    if best[-1] == -inf:
        at = max(place for place in range(len(word) + 1) if best[place] > -inf)
        raise ValueError(f"{word!r} has no segmentation: no piece leads on from position {at}; add its characters")
    pieces, end = [], len(word)
    while end:
        pieces.append(word[cut[end] : end])
        end = cut[end]
    return pieces[::-1], best[-1]


def _log_add(a: float, b: float) -> float:
    low, high = sorted((a, b))
    return high if low == -inf else high + log1p(exp(low - high))


def expected_counts(
    word: str, log_probs: Mapping[str, float], longest: int | None = None
) -> tuple[dict[str, float], float]:
    """How often each piece is expected in the word over all its segmentations, and the word's log probability (nats).

    >>> counts, log_prob = expected_counts("ab", {"a": log(0.5), "b": log(0.25), "ab": log(0.125)})
    >>> {piece: round(count, 6) for piece, count in counts.items()}, round(exp(log_prob), 6)
    ({'a': 0.5, 'ab': 0.5, 'b': 0.5}, 0.25)

    Raises: ValueError when no segmentation exists.
    Source: arXiv:1804.10959, eq. 5, by the forward-backward algorithm.  Taught in: 01_tokenizer_unicode.
    """
    longest = longest or _longest(log_probs)
    size = len(word)
    edges = [
        (start, end, log_probs[word[start:end]])
        for start in range(size)
        for end in range(start + 1, min(size, start + longest) + 1)
        if word[start:end] in log_probs
    ]
    forward = [0.0] + [-inf] * size
    for start, end, log_prob in edges:  # in order of start, so that forward[start] is complete
        forward[end] = _log_add(forward[end], forward[start] + log_prob)
    backward = [-inf] * size + [0.0]
    for start, end, log_prob in reversed(edges):
        backward[start] = _log_add(backward[start], backward[end] + log_prob)
    total = forward[size]
    if total == -inf:
        raise ValueError(f"{word!r} has no segmentation into the pieces given; add its characters")
    counts: dict[str, float] = {}
    for start, end, log_prob in edges:
        share = exp(forward[start] + log_prob + backward[end] - total)
        if share > 0.0:
            counts[word[start:end]] = counts.get(word[start:end], 0.0) + share
    return counts, total


def seed_pieces(word_counts: Mapping[str, int], size: int, max_piece_chars: int = 12) -> dict[str, float]:
    """Log probabilities to begin with: all characters, and the substrings that cover most of the corpus.

    A substring's cover is its count times its length; those that occur once are left out.
    """
    characters: Counter[str] = Counter()
    substrings: Counter[str] = Counter()
    for word, count in word_counts.items():
        for start in range(len(word)):
            characters[word[start]] += count
            for end in range(start + 2, min(len(word), start + max_piece_chars) + 1):
                substrings[word[start:end]] += count
    repeated = [(count * len(piece), piece) for piece, count in substrings.items() if count > 1]
    chosen = sorted(repeated, reverse=True)[: max(0, size - len(characters))]
    scores = {**characters, **{piece: score for score, piece in chosen}}
    return _normalised({piece: float(score) for piece, score in scores.items()})


def _normalised(scores: Mapping[str, float]) -> dict[str, float]:
    total = log(sum(scores.values()))
    return {piece: log(score) - total for piece, score in scores.items()}


def em_step(word_counts: Mapping[str, int], log_probs: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """New log probabilities after one round of EM, and the corpus's log likelihood (nats) under the old ones.

    Characters stay even when no segmentation needs them; other pieces expected less than half a time are dropped.

    Source: arXiv:1804.10959, section 3.2.  Taught in: 01_tokenizer_unicode.
    """
    longest = _longest(log_probs)
    totals: dict[str, float] = {}
    likelihood = 0.0
    for word, occurrences in word_counts.items():
        counts, log_prob = expected_counts(word, log_probs, longest)
        likelihood += occurrences * log_prob
        for piece, count in counts.items():
            totals[piece] = totals.get(piece, 0.0) + occurrences * count
    kept = {piece: totals.get(piece, 0.0) for piece in log_probs if len(piece) == 1 or totals.get(piece, 0.0) >= 0.5}
    return _normalised({piece: max(count, 1e-3) for piece, count in kept.items()}), likelihood


def prune(word_counts: Mapping[str, int], log_probs: Mapping[str, float], size: int) -> dict[str, float]:
    """The `size` pieces whose loss would cost the corpus most likelihood; characters always stay.

    A piece's loss is its count in the best segmentations times what the best other segmentation of the piece itself is worse.
    """
    longest = _longest(log_probs)
    used: Counter[str] = Counter()
    for word, occurrences in word_counts.items():
        for piece in _viterbi(word, log_probs, longest)[0]:
            used[piece] += occurrences
    losses: list[tuple[float, str]] = []
    for piece, log_prob in log_probs.items():
        if len(piece) > 1:
            others = {part: log_probs[part] for part in _substrings(piece) if part != piece and part in log_probs}
            losses.append((used[piece] * (log_prob - _viterbi(piece, others, len(piece))[1]), piece))
    characters = [piece for piece in log_probs if len(piece) == 1]
    kept = [piece for _, piece in sorted(losses, reverse=True)[: max(0, size - len(characters))]]
    total = log(sum(exp(log_probs[piece]) for piece in [*characters, *kept]))
    return {piece: log_probs[piece] - total for piece in [*characters, *kept]}


def _substrings(text: str) -> set[str]:
    return {text[start:end] for start in range(len(text)) for end in range(start + 1, len(text) + 1)}


class UnigramTokenizer:
    """A Unigram tokenizer: the most probable segmentation of each word to ids and back.

    Spaces are kept as `▁`. A character that no piece holds becomes the unknown token and is lost.

    >>> tokenizer = UnigramTokenizer.train(["the cat the hat the bat"] * 4, vocab_size=12)
    >>> tokenizer.tokenize("the hat")
    ['the', '▁hat']
    >>> tokenizer.decode(tokenizer.encode("the hat"))
    'the hat'

    Source: arXiv:1804.10959.  Taught in: 01_tokenizer_unicode.
    """

    def __init__(self, log_probs: Mapping[str, float], special_tokens: Iterable[str] = ("<unk>",)) -> None:
        self.special_tokens = check_special_tokens(special_tokens)
        if not self.special_tokens:
            raise ValueError("special_tokens must hold at least the unknown token, for example ('<unk>',)")
        bad = [piece for piece, value in log_probs.items() if not piece or not isfinite(value) or value > 0]
        if bad or not log_probs:
            raise ValueError(f"log_probs must be finite, at most 0 and of non-empty pieces, got {bad[:1] or 'none'}")
        self.log_probs = dict(log_probs)
        self.unknown = self.special_tokens[0]
        clash = [token for token in self.special_tokens if token in self.log_probs]
        if clash:
            raise ValueError(f"special token {clash[0]!r} is also a piece; choose one that no text can make")
        self._vocab = [*self.special_tokens, *self.log_probs]
        self._ids = {piece: index for index, piece in enumerate(self._vocab)}
        self._special_regex = special_token_regex(self.special_tokens)
        self._longest = _longest(self.log_probs)
        self._unknown_log_prob = min(self.log_probs.values()) - _UNKNOWN_PENALTY
        self._characters = {piece for piece in self.log_probs if len(piece) == 1}

    def __len__(self) -> int:
        """Number of pieces, special ones included."""
        return len(self._vocab)

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every piece: special tokens first, then pieces from the most to the least probable."""
        return dict(self._ids)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        special_tokens: Iterable[str] = ("<unk>",),
        *,
        seed_factor: int = 8,
        max_piece_chars: int = 12,
        keep_share: float = 0.75,
        em_rounds: int = 2,
    ) -> UnigramTokenizer:
        """A tokenizer of at most `vocab_size` pieces, special tokens included.

        Starts from `seed_factor` times as many, and keeps at least `keep_share` of them after every `em_rounds` rounds of EM.

        Raises: ValueError when vocab_size has no room for the special tokens and all characters, or the texts are empty.
        Source: arXiv:1804.10959, section 3.2.  Taught in: 01_tokenizer_unicode.
        """
        if not 0 < keep_share < 1:
            raise ValueError(f"keep_share must lie between 0 and 1, got {keep_share}")
        special = check_special_tokens(special_tokens)
        special_regex = special_token_regex(special)
        counts: Counter[str] = Counter()
        for text in [texts] if isinstance(texts, str) else texts:
            for is_special, piece in pieces_of(text, special_regex):
                if not is_special:
                    counts.update(words_of(piece))
        if not counts:
            raise ValueError("the training texts are empty; pass texts that are not")
        num_characters = len({character for word in counts for character in word})
        size = vocab_size - len(special)
        if size < num_characters:
            raise ValueError(
                f"vocab_size must be at least {len(special) + num_characters} ({len(special)} special tokens and "
                f"{num_characters} characters), got {vocab_size}; ask for more or train on less varied text"
            )
        log_probs = seed_pieces(counts, seed_factor * vocab_size, max_piece_chars)
        while True:
            for _ in range(em_rounds):
                log_probs, _ = em_step(counts, log_probs)
            if len(log_probs) <= size:
                break
            log_probs = prune(counts, log_probs, max(size, int(keep_share * len(log_probs))))
        ordered = sorted(log_probs.items(), key=lambda item: (-item[1], item[0]))
        return cls(dict(ordered), special)

    def segment(self, word: str) -> list[str]:
        """The best pieces of one word, its unknown characters among them as they are."""
        unknown = {character: self._unknown_log_prob for character in word if character not in self._characters}
        return _viterbi(word, {**self.log_probs, **unknown} if unknown else self.log_probs, self._longest)[0]

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text; special tokens stay whole."""
        pieces: list[str] = []
        for is_special, part in pieces_of(text, self._special_regex):
            pieces += [part] if is_special else [piece for word in words_of(part) for piece in self.segment(word)]
        return pieces

    def encode(self, text: str) -> list[int]:
        """The ids of a text; a character that no piece holds has the id of the unknown token."""
        return [self._ids.get(piece, self._ids[self.unknown]) for piece in self.tokenize(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that the ids stand for; the mark becomes a space again.

        Raises: ValueError for an unknown id.
        """
        pieces = []
        for index in ids:
            if not 0 <= int(index) < len(self._vocab):
                raise ValueError(f"unknown id {index}; the vocabulary has ids 0..{len(self) - 1}")
            pieces.append(self._vocab[int(index)])
        return "".join(pieces).replace(SPACE, " ")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tokenizer as one JSON file that `load` reads."""
        document = {"format": "llmcore-unigram", "special_tokens": self.special_tokens, "log_probs": self.log_probs}
        Path(path).write_text(json.dumps(document, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UnigramTokenizer:
        """The tokenizer that `save` wrote.

        Raises: FileNotFoundError; ValueError when the file is something else.
        """
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        if document.get("format") != "llmcore-unigram":
            raise ValueError(f"{os.fspath(path)!r} was not written by UnigramTokenizer.save")
        return cls(document["log_probs"], document["special_tokens"])
