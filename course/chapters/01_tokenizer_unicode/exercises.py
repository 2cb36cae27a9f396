# %% [markdown]
# # 01 Tokenizer and Unicode: from characters to tokens
# *Time: 240 minutes. Builds on: the lesson of this chapter.*
#
# You will write a whole tokenizer: the encodings that turn characters into bytes, the training loop that turns
# bytes into a vocabulary, the encoder and the decoder that every language model starts and ends with.
#
# After each exercise a cell runs `check(...)`. It tells in a second what is wrong and why. Run it as often as you
# like. Helper functions belong in the cell of the exercise that needs them.

# %% given="imports"
from itertools import pairwise

import regex

from grader import check, grade

# The pattern that GPT-2 cuts text with before it merges anything: contractions, words with the space before them,
# numbers, other signs, and runs of white space.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# %% [markdown]
# ## 1. UTF-8 by hand
#
# A code point is a number. UTF-8 writes it in one to four bytes:
#
# | code points | bytes | bit pattern |
# |---|---|---|
# | U+0000 to U+007F | 1 | `0xxxxxxx` |
# | U+0080 to U+07FF | 2 | `110xxxxx 10xxxxxx` |
# | U+0800 to U+FFFF | 3 | `1110xxxx 10xxxxxx 10xxxxxx` |
# | U+10000 to U+10FFFF | 4 | `11110xxx 10xxxxxx 10xxxxxx 10xxxxxx` |
#
# Fill the `x` from the right with the bits of the number. `str.encode`, `chr` and `codecs` are not allowed here: they
# are the answer.


# %% exercise="utf8_encode"
def utf8_encode(code_point: int) -> bytes:
    """The UTF-8 form of one code point, 1 to 4 bytes, without a byte order mark.

    code_point: an integer, 0..0x10FFFF, that is no surrogate (0xD800..0xDFFF).

    >>> utf8_encode(0x41), utf8_encode(0x6C49)
    (b'A', b'\\xe6\\xb1\\x89')

    Raises: ValueError for a surrogate and for a number outside 0..0x10FFFF.
    """
    ### BEGIN SOLUTION
    if not 0 <= code_point <= 0x10FFFF:
        raise ValueError(f"a code point lies in 0..0x10FFFF, got {code_point:#x}")
    if 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(f"U+{code_point:04X} is a surrogate, half of a UTF-16 pair; it stands for no character")
    if code_point < 0x80:
        return bytes([code_point])
    if code_point < 0x800:
        return bytes([0xC0 | code_point >> 6, 0x80 | code_point & 0x3F])
    if code_point < 0x10000:
        return bytes([0xE0 | code_point >> 12, 0x80 | code_point >> 6 & 0x3F, 0x80 | code_point & 0x3F])
    return bytes(
        [
            0xF0 | code_point >> 18,
            0x80 | code_point >> 12 & 0x3F,
            0x80 | code_point >> 6 & 0x3F,
            0x80 | code_point & 0x3F,
        ]
    )
    ### END SOLUTION


# %% check="utf8_encode"
check(utf8_encode)

# %% judge="utf8_encode" points=3
grade(utf8_encode)

# %% [markdown]
# ## 2. And back, strictly
#
# A decoder meets bytes that somebody else wrote. It must refuse what no encoder writes: a text cut in the middle of a
# character, a continuation byte with nothing before it, a number written with more bytes than it needs (overlong), a
# surrogate, a number above U+10FFFF. Overlong forms once let attackers smuggle `/` past filters as `C0 AF`.


# %% exercise="utf8_decode"
def utf8_decode(data: bytes) -> list[int]:
    """The code points that UTF-8 bytes stand for, as integers in order; b"" gives [].

    Strict. A byte order mark at the start is kept: it is the code point 0xFEFF. `data` may be of any length.

    >>> utf8_decode(b"A\\xe6\\xb1\\x89")
    [65, 27721]

    Raises: ValueError for truncated, overlong, surrogate, stray continuation, and anything above 0x10FFFF. A byte that
    cannot begin a character (0x80..0xBF, 0xF8..0xFF) and a missing continuation byte are errors too.
    """
    ### BEGIN SOLUTION
    code_points = []
    start = 0
    while start < len(data):
        lead = data[start]
        if lead < 0x80:
            length, value, least = 1, lead, 0
        elif 0xC0 <= lead < 0xE0:
            length, value, least = 2, lead & 0x1F, 0x80
        elif 0xE0 <= lead < 0xF0:
            length, value, least = 3, lead & 0x0F, 0x800
        elif 0xF0 <= lead < 0xF8:
            length, value, least = 4, lead & 0x07, 0x10000
        else:
            raise ValueError(f"byte {lead:#04x} at {start} cannot begin a character")
        tail = data[start + 1 : start + length]
        if len(tail) != length - 1:
            raise ValueError(f"the character at {start} wants {length} bytes, the data ends after {1 + len(tail)}")
        for byte in tail:
            if byte & 0xC0 != 0x80:
                raise ValueError(f"byte {byte:#04x} in the character at {start} is no continuation byte")
            value = value << 6 | byte & 0x3F
        if value < least:
            raise ValueError(f"overlong: U+{value:04X} at {start} is written in {length} bytes and needs fewer")
        if 0xD800 <= value <= 0xDFFF or value > 0x10FFFF:
            raise ValueError(f"{value:#x} at {start} is no character's code point")
        code_points.append(value)
        start += length
    return code_points
    ### END SOLUTION


# %% check="utf8_decode"
check(utf8_decode)

# %% judge="utf8_decode" points=5
grade(utf8_decode)

# %% [markdown]
# ## 3. UTF-16 and its surrogates
#
# UTF-16 spends two bytes on code points up to U+FFFF. A larger one is written as a pair: subtract 0x10000, which leaves
# 20 bits; the upper ten are added to 0xD800, the lower ten to 0xDC00. That is why 0xD800..0xDFFF stand for no
# character of their own. JavaScript, Java and Windows file names work this way.


# %% exercise="utf16_encode"
def utf16_encode(code_point: int) -> bytes:
    """The UTF-16 form of one code point, 2 or 4 bytes, big-endian, without a byte order mark.

    code_point: an integer, 0..0x10FFFF, that is no surrogate (0xD800..0xDFFF).

    >>> utf16_encode(0x41), utf16_encode(0x1F609).hex()
    (b'\\x00A', 'd83dde09')

    Raises: ValueError for a surrogate and for a number outside 0..0x10FFFF.
    """
    ### BEGIN SOLUTION
    if not 0 <= code_point <= 0x10FFFF:
        raise ValueError(f"a code point lies in 0..0x10FFFF, got {code_point:#x}")
    if 0xD800 <= code_point <= 0xDFFF:
        raise ValueError(f"U+{code_point:04X} is a surrogate, half of a UTF-16 pair; it stands for no character")
    if code_point < 0x10000:
        return code_point.to_bytes(2, "big")
    twenty_bits = code_point - 0x10000
    high, low = 0xD800 + (twenty_bits >> 10), 0xDC00 + (twenty_bits & 0x3FF)
    return high.to_bytes(2, "big") + low.to_bytes(2, "big")
    ### END SOLUTION


# %% check="utf16_encode"
check(utf16_encode)

# %% judge="utf16_encode" points=3
grade(utf16_encode)

# %% [markdown]
# ## 4. Count the pairs
#
# Training starts from words, each a tuple of tokens (at first single bytes), with how often the word occurs in the
# text. A pair of neighbours counts once for every place where it stands: `aaa` holds the pair (a, a) twice.


# %% exercise="count_pairs"
def count_pairs(words: dict[tuple[bytes, ...], int]) -> dict[tuple[bytes, bytes], int]:
    """How often each pair of neighbouring tokens occurs in the text that the words and their counts describe.

    words: word (a tuple of tokens, each one or more bytes) -> how often it occurs, at least 1.
    A pair counts at every position of a word, overlapping ones too, times the word's count. Only pairs that occur are
    in the result; the words are left as they are. No words, or only words of one token: {}.

    >>> count_pairs({(b"h", b"a"): 2, (b"a", b"a", b"a"): 5})
    {(b'h', b'a'): 2, (b'a', b'a'): 10}
    """
    ### BEGIN SOLUTION
    counts: dict[tuple[bytes, bytes], int] = {}
    for word, count in words.items():
        for pair in pairwise(word):
            counts[pair] = counts.get(pair, 0) + count
    return counts
    ### END SOLUTION


# %% check="count_pairs"
check(count_pairs)

# %% judge="count_pairs" points=2
grade(count_pairs)

# %% [markdown]
# ## 5. Merge a pair in one word


# %% exercise="merge_word"
def merge_word(word: tuple[bytes, ...], pair: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """The word with every occurrence of the pair joined into one token.

    Occurrences are taken from left to right and do not overlap: (a, a) in (a, a, a) gives (aa, a). A pair is two
    neighbouring tokens that equal pair[0] and pair[1]; other tokens whose bytes happen to join to the same are left
    alone. A word without the pair comes back equal to itself; () gives (). The word may be of any length.

    >>> merge_word((b"b", b"a", b"n", b"a", b"n", b"a"), (b"a", b"n"))
    (b'b', b'an', b'an', b'a')
    """
    ### BEGIN SOLUTION
    merged = []
    i = 0
    while i < len(word):
        if word[i : i + 2] == pair:
            merged.append(pair[0] + pair[1])
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return tuple(merged)
    ### END SOLUTION


# %% check="merge_word"
check(merge_word)

# %% judge="merge_word" points=3
grade(merge_word)

# %% [markdown]
# ## 6. Train byte-pair encoding
#
# 1. Cut the text at the special tokens. What lies between two of them is a text of its own.
# 2. Cut each piece with `GPT2_PATTERN` (`regex.finditer`) and count equal words. Merges never cross a word.
# 3. Write each word as its UTF-8 bytes, one token a byte.
# 4. Join the most frequent pair everywhere; of equally frequent pairs the greater one, as Python compares tuples of
#    bytes. Repeat until the vocabulary is full or no pair is left.
#
# First make it right with `count_pairs` and `merge_word`. Then make it fast: only the words that hold the merged pair
# change, so update the counts for those words alone. The worked solution needs half a second for 100 kB and 500
# merges.


# %% exercise="train_bpe"
def train_bpe(
    text: str, vocab_size: int, special_tokens: list[str]
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """The vocabulary (id -> bytes) and the merges, in the order learned, of byte-level BPE trained on the text.

    Words are cut with GPT2_PATTERN. Special tokens (distinct, not empty, none or more) are taken out of the text first:
    they are never split, counted or merged, and no word or pair reaches across one. Where several begin at the same
    place, the longest is the one that stands there.
    Ids: the special tokens in the order given (their UTF-8 bytes), then the 256 single bytes in order, then one per merge.
    vocab_size is the length of the finished vocabulary, all three kinds together. A merge joins the pair with the
    highest count; of equal counts, the greater pair of bytes (Python's order of tuples). A pair that occurs once is
    still a pair. Training stops early when no pair is left, and the vocabulary is then smaller.

    >>> vocab, merges = train_bpe("low low lower", 258, [])
    >>> merges, len(vocab), vocab[257]
    ([(b'o', b'w'), (b'l', b'ow')], 258, b'low')

    Raises: ValueError for a vocab_size below len(special_tokens) + 256.
    """
    ### BEGIN SOLUTION
    if vocab_size < len(special_tokens) + 256:
        raise ValueError(
            f"vocab_size must be at least {len(special_tokens) + 256} (special tokens and 256 bytes), got {vocab_size}"
        )
    tokens = [token.encode("utf-8") for token in special_tokens] + [bytes([byte]) for byte in range(256)]

    pieces = [text]
    if special_tokens:
        longest_first = sorted(special_tokens, key=len, reverse=True)
        pieces = regex.split("|".join(map(regex.escape, longest_first)), text)
    word_counts: dict[str, int] = {}
    for piece in pieces:
        for match in regex.finditer(GPT2_PATTERN, piece):
            word_counts[match.group()] = word_counts.get(match.group(), 0) + 1

    words = [[bytes([byte]) for byte in word.encode("utf-8")] for word in word_counts]
    frequencies = list(word_counts.values())
    pair_counts: dict[tuple[bytes, bytes], int] = {}
    holders: dict[tuple[bytes, bytes], set[int]] = {}  # pair -> words that hold it, or once did
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] = pair_counts.get(pair, 0) + frequencies[index]
            holders.setdefault(pair, set()).add(index)

    merges = []
    while len(tokens) + len(merges) < vocab_size and pair_counts:
        highest = max(pair_counts.values())
        best = max(pair for pair, count in pair_counts.items() if count == highest)
        first, second = best
        joined = first + second
        for index in holders.pop(best):
            word, frequency = words[index], frequencies[index]
            merged: list[bytes] = []
            i = 0
            while i < len(word):
                if word[i] == first and i + 1 < len(word) and word[i + 1] == second:
                    merged.append(joined)
                    i += 2
                else:
                    merged.append(word[i])
                    i += 1
            if len(merged) == len(word):
                continue  # an earlier merge took the pair out of this word
            for pair in pairwise(word):
                pair_counts[pair] -= frequency
                if not pair_counts[pair]:
                    del pair_counts[pair]
            for pair in pairwise(merged):
                pair_counts[pair] = pair_counts.get(pair, 0) + frequency
                holders.setdefault(pair, set()).add(index)
            words[index] = merged
        merges.append(best)

    tokens += [first + second for first, second in merges]
    return dict(enumerate(tokens)), merges
    ### END SOLUTION


# %% check="train_bpe"
check(train_bpe)

# %% judge="train_bpe" points=8
grade(train_bpe)

# %% [markdown]
# ## 7. Encode
#
# To encode is to replay the training on a new text: within each word, join the pair that was learned first, then the
# next, until no neighbouring pair was ever learned. Taking the longest token that fits gives other ids, and a model
# that never saw them.


# %% exercise="encode"
def encode(
    text: str,
    vocab: dict[int, bytes],
    merges: list[tuple[bytes, bytes]],
    special_tokens: list[str] | None = None,
) -> list[int]:
    """The token ids of the text under byte-level BPE; "" gives [].

    vocab: id -> bytes, in any order of ids; it holds the 256 single bytes, the merged tokens and the special tokens, and
    no bytes twice. merges: pairs in the order learned; a pair's rank is its place in this list.
    special_tokens: where one stands in the text, it becomes its own id, and text on its two sides is encoded apart; of
    several that begin at the same place the longest wins. None or []: nothing is special, and their spelling is ordinary text.
    Ordinary text is cut into words with GPT2_PATTERN, each word into its UTF-8 bytes; then the neighbouring pair of lowest
    rank is merged, from left to right, again and again until no neighbours are a pair in `merges`.
    Nothing is normalised or dropped. The arguments are left as they are.

    >>> vocab = {i: bytes([i]) for i in range(256)} | {256: b"bc", 257: b"ab"}
    >>> encode("abc", vocab, [(b"b", b"c"), (b"a", b"b")])
    [97, 256]
    """
    ### BEGIN SOLUTION
    ids = {token: token_id for token_id, token in vocab.items()}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    cache: dict[str, list[int]] = {}

    def encode_word(word: str) -> list[int]:
        parts = [bytes([byte]) for byte in word.encode("utf-8")]
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: ranks.get(pair, len(ranks)))
            if pair not in ranks:
                break
            merged = []
            i = 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
                    merged.append(parts[i] + parts[i + 1])
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return [ids[part] for part in parts]

    pieces = [text]
    if special_tokens:
        longest_first = sorted(special_tokens, key=len, reverse=True)
        pieces = regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text)
    result: list[int] = []
    for number, piece in enumerate(pieces):
        if number % 2:  # with a group in the pattern, what matched stands at the odd places
            result.append(ids[piece.encode("utf-8")])
            continue
        for match in regex.finditer(GPT2_PATTERN, piece):
            word = match.group()
            if word not in cache:
                cache[word] = encode_word(word)
            result += cache[word]
    return result
    ### END SOLUTION


# %% check="encode"
check(encode)

# %% judge="encode" points=6
grade(encode)

# %% [markdown]
# ## 8. Decode
#
# A token may end in the middle of a character. Join first, decode once.


# %% exercise="decode"
def decode(ids: list[int], vocab: dict[int, bytes]) -> str:
    """The text of the ids: their bytes joined, then read as UTF-8; [] gives "".

    A model may emit any ids. Bytes that are no UTF-8 become U+FFFD, the replacement character, as Python's error handler
    "replace" does it. Nothing else is changed, neither white space nor line ends nor a byte order mark.
    vocab: id -> bytes; its ids need not be 0, 1, 2, ...

    >>> decode([7, 9], {7: b"\\xe6\\xb1", 9: b"\\x89!"})
    '汉!'

    Raises: ValueError for an id that is not in the vocabulary.
    """
    ### BEGIN SOLUTION
    unknown = [token_id for token_id in ids if token_id not in vocab]
    if unknown:
        raise ValueError(f"id {unknown[0]} is not in the vocabulary of {len(vocab)} tokens")
    return b"".join(vocab[token_id] for token_id in ids).decode("utf-8", errors="replace")
    ### END SOLUTION


# %% check="decode"
check(decode)

# %% judge="decode" points=2
grade(decode)

# %% [markdown]
# ## 9. Compression ratio


# %% exercise="compression_ratio"
def compression_ratio(text: str, ids: list[int]) -> float:
    """UTF-8 bytes of the text per token: how many bytes one token stands for on average.

    ids: the tokens of the text; special tokens and repeated ids count like any other. A text of 0 bytes gives 0.0.

    >>> compression_ratio("汉字", [5, 9, 5, 2])
    1.5

    Raises: ValueError if ids is empty.
    """
    ### BEGIN SOLUTION
    if not ids:
        raise ValueError("bytes per token need at least one token, got none")
    return len(text.encode("utf-8")) / len(ids)
    ### END SOLUTION


# %% check="compression_ratio"
check(compression_ratio)

# %% judge="compression_ratio" points=2
grade(compression_ratio)

# %% [markdown]
# ## 10. The best segmentation: Viterbi
#
# A Unigram tokenizer gives each piece a probability. A segmentation has the product of its pieces' probabilities, the sum
# of their logarithms. There are $2^{n-1}$ ways to cut n characters, but the best way to reach position `end` needs only the
# best ways to reach the positions before it:
#
# $$\text{best}(e) = \max_{s < e}\; \text{best}(s) + \log p(\text{word}[s{:}e]), \qquad \text{best}(0) = 0$$


# %% exercise="viterbi_segment"
def viterbi_segment(word: str, log_probs: dict[str, float]) -> list[str]:
    """The pieces, in order, whose log-probabilities have the greatest sum among all ways to cut the word; "" gives [].

    log_probs: piece (one or more characters) -> natural logarithm of its probability, at most 0, finite.
    The pieces joined give the word. Where two ways are equally good, either may come back. At most about n²/2 pieces are
    looked at for n characters: a word of 300 characters takes a moment, not an eternity.

    >>> viterbi_segment("abc", {"a": -1.0, "b": -2.0, "c": -2.0, "ab": -2.0, "bc": -2.5})
    ['a', 'bc']

    Raises: ValueError if no segmentation exists.
    """
    ### BEGIN SOLUTION
    best: list[float | None] = [0.0] + [None] * len(word)  # best sum of a way to reach each position
    previous = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for start in range(end):
            piece = word[start:end]
            if best[start] is None or piece not in log_probs:
                continue
            total = best[start] + log_probs[piece]
            if best[end] is None or total > best[end]:
                best[end], previous[end] = total, start
    if best[-1] is None:
        raise ValueError(f"{word!r} cannot be cut into pieces of the vocabulary")
    pieces = []
    end = len(word)
    while end > 0:
        pieces.append(word[previous[end] : end])
        end = previous[end]
    return pieces[::-1]
    ### END SOLUTION


# %% check="viterbi_segment"
check(viterbi_segment)

# %% judge="viterbi_segment" points=6
grade(viterbi_segment)

# %% [markdown]
# ## 11. In your own words
#
# A startup takes a tokenizer with 50,000 tokens that was trained on English web pages, and uses it for a model that
# answers customers in Thai and in English and reads invoices with long numbers. Name three costs that they will meet,
# each with the mechanism behind it and a figure that you measured in the lesson or can estimate. Then propose a
# change, and say what it costs in return. (About 200 words.)

# %% [markdown] manual="tokenizer_choice" points=5
# **Thai gets long.** The same two sentences took about 8 times as many tokens in Thai as in English in the lesson, because
# no Thai sequence was frequent in the training text and every byte stays a token: 3 for each Thai character. Answers
# take 8 times as many steps and cost 8 times as much; attention over them costs 64 times as much, and a context of
# 8,000 tokens holds about 2,700 Thai characters.
#
# **Thai gets bad.** A model that reads single bytes spends its depth on putting characters together first. It may also
# emit bytes that are no character, which decode to U+FFFD.
#
# **Numbers get arbitrary.** GPT-2's pattern keeps a run of digits together, so an invoice number is cut wherever merges
# happened to be learned: two numbers that differ in one digit can have other cuts throughout. In the lesson numbers that
# had never been trained as a token gave about 0 % correct sums, digits about 90 %.
#
# **A change.** Train a new vocabulary on a mixture with, say, a third of Thai, with a pattern that cuts digits apart.
# What it costs: at the same size English loses merges (some more tokens); a larger vocabulary needs a larger table, for
# 100,000 tokens of width 768 about 38 million numbers more. Long numbers become longer. And the old model's embeddings do not fit
# the new ids: it must be trained further, or again.
#
# *Points: one for each cost with mechanism and figure (3), one for a change that meets them, one for its price.*
