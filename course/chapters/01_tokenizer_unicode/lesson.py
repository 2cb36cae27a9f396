# %% [markdown]
# # 01 Tokenizer and Unicode: from characters to tokens
# *Time: 120 minutes. Builds on: nothing but Python.*
#
# A language model never sees a letter. It sees numbers, and somebody decided which piece of text gets which number.
# That decision fixes what the model costs in Chinese, whether it can add, and how it fails on an emoji.
#
# After this lesson you can
# - write any character as bits in UTF-8, UTF-16 and UTF-32, and say why one text has five different lengths;
# - train byte-pair encoding by hand, and explain what makes it fast;
# - encode by rank, and name a text on which greedy matching goes wrong;
# - tell BPE, WordPiece and Unigram apart by what each of them maximises;
# - measure what a vocabulary costs and what it saves, by language.
#
# Fifteen claims from study notes are tested on the way. Each gets a cell that computes its verdict. Change the numbers
# and see whether the verdict stands.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute, "full" for a patient CPU, "gpu" the same as "full" here

# %%
import heapq
import sys
import time
from collections import Counter

import numpy as np
import torch

from llmcore import claims, figures, text
from llmcore.figures import tokenizer as pictures
from llmcore.tokenizer import BPETokenizer, UnigramTokenizer, WordPieceTokenizer, bpe, compression_ratio, wordpiece
from llmcore.tokenizer.pretokenize import count_words, words_of
from llmcore.tokenizer.unigram import viterbi_segment

torch.set_num_threads(1)
LARGE = SCALE != "quick"

# %% [markdown]
# ## 1. Predict first
#
# Here are four short texts. Write down for each how many **characters** it has, as Python's `len` counts them, and how
# many **bytes** it takes in UTF-8. Then run the next cell.
#
# `naïve` - `汉字` - `👩‍👩‍👧` - `🇩🇪`

# %%
for sample in ("naïve", "汉字", "👩‍👩‍👧", "🇩🇪"):
    sizes = text.text_sizes(sample)
    print(
        f"{sample}: {sizes.graphemes} seen, {sizes.code_points} code points, "
        f"{sizes.utf8_bytes} / {sizes.utf16_bytes} / {sizes.utf32_bytes} bytes in UTF-8 / 16 / 32"
    )

# %% [markdown]
# One family is one thing to a reader, 5 code points to Python and 18 bytes to a disk. All three are called "length".
# Most bugs in text handling are a confusion of two of them. We take them one at a time.

# %% [markdown]
# ## 2. Code points: a number for every character
#
# Unicode gives every character a number, its **code point**, written U+ and hexadecimal digits.
# The numbers lie in 17 **planes** of 65,536 each. Nearly everything you read every day is in plane 0.

# %%
for character in "Aé汉𠀀😉":
    number, name = text.plane(ord(character))
    print(character, text.label(ord(character)), f"- plane {number}, {name}")

# %% [markdown]
# **Claim C01.02: the code space is 2^21 code points.** Predict: is 17 · 65,536 the same as 2^21?

# %%
code_points = sys.maxunicode + 1
claims.judge(
    "C01.02",
    confirmed=(code_points - 1).bit_length() == 21,
    refuted=code_points != 2**21,
    evidence={"code points": code_points, "planes": code_points / 2**16, "2^21": 2**21, "bits to number them": 21},
    on="what is counted: 21 bits are needed to number them, but only 1,114,112 of the 2^21 numbers are used",
)

# %% [markdown]
# Why such an odd end, 0x10FFFF? Because UTF-16 cannot count further. You will see it in section 4.
#
# The first 128 code points are **ASCII**, from 1963. Its designers put the two cases of a letter 32 apart, so that one
# bit tells them apart. Some programs take that for a rule.
#
# **Claim C01.06: two characters that differ by 32 are not always one letter's two cases.**

# %%
letter_pairs = [chr(n) + chr(n + 32) for n in range(0x40, 0x60) if chr(n).lower() == chr(n + 32)]
other_pairs = [chr(n) + chr(n + 32) for n in range(0x40, 0x60) if chr(n).lower() != chr(n + 32)]
claims.judge(
    "C01.06",
    confirmed=len(other_pairs) > 0,
    evidence={"letter pairs in 40..5F": len(letter_pairs), "other pairs": other_pairs},
    note="Setting bit 5 lower-cases A to Z, and turns @ into a backquote.",
)

# %% [markdown]
# ## 3. Before Unicode: one byte, many meanings
#
# ASCII left half a byte free, and every country filled it in its own way. Chinese needed two bytes: GB2312 (1980) has
# 6,763 Chinese characters, GBK (1995) over 20,000. The same character has other bytes in each, or none.

# %%
for character in "é汉漢한":
    forms = text.encodings_of(character, ["ascii", "latin-1", "gb2312", "gbk", "big5", "utf-8"])
    print(character, {name: data.hex(" ").upper() if data else "-" for name, data in forms.items()})

# %% [markdown]
# Bytes do not say which encoding wrote them. Read with the wrong one, they become **mojibake**. Predict: what does
# `é`, written as UTF-8, look like to a program that reads Latin-1?

# %%
print(text.mojibake("naïve café"))
print(text.mojibake("汉字", written_as="gbk", read_as="latin-1"))
print(text.mojibake("汉字", written_as="utf-8", read_as="gbk"))

# %% [markdown]
# Mojibake is in every web crawl. A tokenizer that sees much of it learns `Ã©` as a token. Real vocabularies have it.

# %% [markdown]
# ## 4. Three ways to write a number: UTF-8, UTF-16, UTF-32
#
# UTF-32 writes each code point in four bytes. Simple, and wasteful.
#
# UTF-8 puts the length into the first byte and marks every further byte:
#
# | code points | bytes | bit pattern | room |
# |---|---|---|---|
# | U+0000 to U+007F | 1 | `0xxxxxxx` | 7 bits |
# | U+0080 to U+07FF | 2 | `110xxxxx 10xxxxxx` | 11 bits |
# | U+0800 to U+FFFF | 3 | `1110xxxx 10xxxxxx 10xxxxxx` | 16 bits |
# | U+10000 to U+10FFFF | 4 | `11110xxx 10xxxxxx 10xxxxxx 10xxxxxx` | 21 bits |
#
# Take 汉, U+6C49. It needs 15 bits, so three bytes. In binary, padded to 16 bits and cut for the pattern:
# `0110 110001 001001`. Put the marks in front: `1110`0110 `10`110001 `10`001001. That is E6 B1 89.
#
# Type a character of your own. Coloured boxes carry the code point, white boxes are fixed marks.


# %%
def draw_bits(character):
    legal = [c for c in character if not 0xD800 <= ord(c) <= 0xDFFF]
    return pictures.bit_layout(ord(legal[0] if legal else "?"))


figures.interactive(
    draw_bits,
    alt=lambda character: f"The bits of {text.label(ord((character or '?')[0]))} in UTF-8, UTF-16 and UTF-32",
    labels={"character": "type a character"},
    character="汉",
)
print("汉:", text.utf8_encode(0x6C49).hex(" "), "|", text.utf16_encode(0x6C49).hex(" "))

# %% [markdown]
# **Claim C01.01: UTF-8 keeps ASCII byte for byte, takes 1 to 4 bytes, and 汉 is E6 B1 89.** We ask all code points, not
# a sample. One of the notes prints the bytes as E6 B7 89. What is that?

# %%
legal = [n for n in range(code_points) if n not in text.SURROGATES]
lengths = Counter(len(chr(n).encode()) for n in legal)
ascii_text = "".join(map(chr, range(128)))
written = text.utf8_encode(0x6C49)
claims.judge(
    "C01.01",
    confirmed=ascii_text.encode() == ascii_text.encode("ascii")
    and set(lengths) == {1, 2, 3, 4}
    and written.hex() == "e6b189",
    evidence={
        "code points of 1, 2, 3, 4 bytes": [lengths[n] for n in range(1, 5)],
        "bytes of U+6C49": written.hex(" ").upper(),
        "E6 B7 89 would be": f"U+{ord(bytes.fromhex('E6B789').decode()):04X}",
    },
    note="The scheme holds. The middle byte as note E prints it, B7, is a slip: it names another character.",
)

# %% [markdown]
# UTF-16 writes U+0000 to U+FFFF in two bytes. For the rest it uses pairs: take 0x10000 off, which leaves 20 bits; ten
# go into a unit D800..DBFF, ten into a unit DC00..DFFF. $2^{16} + 2^{20}$ = 1,114,112: there is the odd end of Unicode.
#
# **Claim C01.03: readers of UTF-16 tell the two kinds apart by the empty range D800..DFFF.** For that, no two-byte
# character may have a unit in the range, and every unit of a pair must have one.

# %%
units = np.frombuffer("".join(map(chr, legal)).encode("utf-16-be"), dtype=">u2")
single, paired = units[: 0x10000 - 0x800], units[0x10000 - 0x800 :]
inside = [int(((u >= 0xD800) & (u <= 0xDFFF)).sum()) for u in (single, paired)]
firsts_apart = paired[::2].max() < paired[1::2].min()
claims.judge(
    "C01.03",
    confirmed=inside[0] == 0 and inside[1] == len(paired) and bool(firsts_apart),
    evidence={"single units inside the range": inside[0], "units of pairs": len(paired), "of them inside": inside[1]},
    note="First halves end where second halves begin, so a reader who starts in the middle finds the next character.",
)

# %% [markdown]
# **Claim C01.04: UTF-32 spends four bytes on each code point, so English grows fourfold.** What of the other languages?

# %%
samples = text.same_text()
english = text.python_documentation()
growth = {name: len(t.encode("utf-32-be")) / len(t.encode()) for name, t in samples.items()}
growth_docs = len(english.encode("utf-32-be")) / len(english.encode())
claims.judge(
    "C01.04",
    confirmed=abs(growth_docs - 4) < 0.05 and all(len(t.encode("utf-32-be")) == 4 * len(t) for t in samples.values()),
    evidence={"Python's documentation": growth_docs}
    | {k: growth[k] for k in ("German", "Russian", "Chinese", "Emoji")},
    note="Against UTF-8 English grows fourfold, Chinese by a third, and most emoji not at all.",
)

# %% [markdown]
# **Claim C01.05: an emoji needs four bytes, so a store that takes only three loses it.** MySQL's old `utf8` was such
# a store. We count the bytes of each emoji in our sample, by what a reader sees as one.

# %%
emoji = [g for g in text.graphemes(samples["Emoji"]) if not g.isspace() and g != "!"] + ["☀", "✅", "⌚"]
emoji_bytes = {g: len(g.encode()) for g in emoji}
kept = [g for g in emoji if all(len(c.encode()) <= 3 for c in g)]
print({g: n for g, n in emoji_bytes.items() if n != 4})
claims.judge(
    "C01.05",
    confirmed=any(len(c.encode()) == 4 for c in "😀"),
    refuted=len(kept) > 0,
    evidence={
        "emoji looked at": len(emoji),
        "exactly 4 bytes": sum(n == 4 for n in emoji_bytes.values()),
        "kept by a 3-byte store": len(kept),
        "longest, in bytes": max(emoji_bytes.values()),
    },
    on="the emoji: older symbols take 3 bytes, most take 4, sequences such as a family take 18 and more",
)

# %% [markdown]
# ## 5. Two spellings of one word: normalisation and grapheme clusters
#
# `é` can be one code point, or `e` and an accent that joins it. They look the same and are not equal. A **normal form**
# chooses one: NFC composes, NFD takes apart, NFKC and NFKD also replace look-alikes.

# %%
composed, decomposed = "é", "e\u0301"
print("equal:", composed == decomposed, "- after NFC:", composed == text.normalize(decomposed, "NFC"))
for sample in ("é", "ﬁ", "²", "Å", "한", "①"):
    print(sample, {form: [f"{ord(c):04X}" for c in text.normalize(sample, form)] for form in ("NFC", "NFD", "NFKC")})

# %% [markdown]
# NFKC turns x² into x2. That is fine for a search box and wrong for a language model: it must give back what it was
# given. So modern tokenizers normalise nothing, and byte-level BPE needs nothing normalised.
#
# What a reader takes for one character is a **grapheme cluster**. Do not cut inside one when you shorten a text:

# %%
family = "👩‍👩‍👧 🇩🇪 नमस्ते"
print([family[:n] for n in (1, 2, 3)], "- cut by code points")
print(text.graphemes(family)[:3], "- cut by clusters")

# %% [markdown]
# ## 6. Characters, words or bytes?
#
# A model needs a list of symbols. Which?
#
# - **Characters**: 150,000 and growing. Most are so rare that their vectors never learn anything.
# - **Words**: let us look.
#
# Predict: of the different words in Python's documentation, what share occurs exactly once?

# %%
word_counts = Counter(word.strip().lower() for word in words_of(english) if word.strip().isalpha())
once = sum(count == 1 for count in word_counts.values())
print(
    f"{sum(word_counts.values()):,} words, {len(word_counts):,} different, {once / len(word_counts):.0%} of them once"
)
print("commonest:", word_counts.most_common(6))

# %% [markdown]
# Zipf saw it in 1935: the word of rank r occurs about 1/r as often as the first. On logarithmic axes that is a line
# with slope -1. The picture also shows the tokens of a BPE vocabulary on the same text. Which is more even?

# %%
heldout = english[-60_000:]
training = english[:-60_000]
tokenizer = BPETokenizer.train([training], vocab_size=4096)
token_counts = Counter(tokenizer.encode(english))
characters = Counter(english)
series = {"words": word_counts, "BPE tokens (4,096)": token_counts, "characters": characters}


def draw_zipf(second, first_rank):
    chosen = {"words": list(word_counts.values()), second: list(series[second].values())}
    return pictures.zipf(chosen, ranks=(first_rank, min(map(len, chosen.values()))))


figures.interactive(
    draw_zipf,
    alt="Occurrences against rank on logarithmic axes: words fall along a straight line of slope about -1 down to "
    "words that occur once; the tokens of a BPE vocabulary fall less steeply and end at a higher count",
    labels={"second": "compare with", "first_rank": "fit from rank"},
    second=["BPE tokens (4,096)", "characters"],
    first_rank=figures.Steps([1, 3, 10, 30]),
)
word_slope = text.zipf_slope(count for _, count in word_counts.most_common(1000))
token_slope = text.zipf_slope(count for _, count in token_counts.most_common(1000))
print(f"slope over the first 1,000 ranks: words {word_slope:.2f}, tokens {token_slope:.2f}")

# %% [markdown]
# **Claim C01.14: words are too unevenly frequent to be tokens.** Too uneven means: a line of slope near -1 with a long
# tail. A list of words learned from one part of a text then lacks many words of the next part.

# %%
learned = {word for word, _ in Counter(words_of(training)).most_common(4096)}
heldout_words = words_of(heldout)
missing = sum(word not in learned for word in heldout_words) / len(heldout_words)
claims.judge(
    "C01.14",
    confirmed=-1.4 < word_slope < -0.7 and once / len(word_counts) > 0.25 and missing > 0.02,
    evidence={
        "slope of words": word_slope,
        "slope of BPE tokens": token_slope,
        "words that occur once": once / len(word_counts),
        "words of new text outside a list of 4,096": missing,
        "tokens of new text outside a BPE vocabulary of 4,096": 0,
    },
)

# %% [markdown]
# - **Bytes**: 256 symbols, nothing is ever unknown. But a text becomes long: 3 symbols for 汉.
#
# Subwords take the best of both. Start from bytes, so that nothing is unknown. Give frequent sequences a symbol of
# their own, so that texts are short.

# %% [markdown]
# ## 7. Cut first: pre-tokenisation
#
# Without a rule, BPE would learn `of the` as a token, and `dog.`, `dog!` and `dog?` as three. So text is first cut into
# words, and no token reaches across a cut. GPT-2's pattern keeps the space with the word that follows it.
#
# Predict: into how many words is `don't   stop: x12` cut? There are three spaces in a row.

# %%
for sample in ("don't   stop: x12", "if x==10:\n    return", "汉字很难学。"):
    pieces = words_of(sample)
    print(pieces, "- joined again:", "".join(pieces) == sample)

# %% [markdown]
# Nothing is lost, and a Chinese sentence without spaces is a single word. Newer patterns differ in one habit above all:
# how they cut numbers. Section 12 shows why.

# %%
for name in ("gpt2", "cl100k", "qwen2"):
    print(f"{name:7s}", words_of("It's 1234567 items", name))

# %% [markdown]
# ## 8. Byte-pair encoding, one merge at a time
#
# 1. Write every word as bytes and count the words.
# 2. Count each pair of neighbours, times the count of its word.
# 3. Join the most frequent pair everywhere. Of equals, the greater pair of bytes.
# 4. Repeat.
#
# Here are eight words with their true counts in Python's documentation. Predict the first two merges before you move
# the slider.

# %%
all_words = count_words(training)
corpus = {
    word: all_words[word]
    for word in (b" the", b" then", b" this", b" that", b" other", b" method", b" methods", b" there")
}
steps = list(bpe.merge_steps(corpus, num_merges=14, top=6))
start = ({bpe.split_bytes(word): count for word, count in corpus.items()}, None)
frames = [start] + [(step.words, step.pair) for step in steps]


def show_step(step):
    words, merged = frames[step]
    ordered = sorted(words.items(), key=lambda item: (-item[1], b"".join(item[0])))
    return pictures.merge_frame(ordered, bpe.rank_pairs(bpe.count_pairs(words), top=6), step=step, merged=merged)


figures.interactive_html(
    show_step,
    alt=lambda step: f"Eight words after {step} merges, as tokens, beside the most frequent pairs and their counts",
    play="step",
    labels={"step": "merges made"},
    step=(0, len(frames) - 1, 3),
)
print([(b"".join(step.pair).decode(), step.count) for step in steps[:6]])

# %% [markdown]
# After three merges ` the` is nearly a token. Watch what a merge does to the pairs beside it: when `t h` is joined, the
# counts of ` t` and `h e` fall, and pairs with `th` appear. Nothing else moves. That is the key to speed.

# %% [markdown]
# ## 9. Fast: change only what changes
#
# The plain loop recounts every word after every merge. The documentation has some 6,000 different words, and a merge
# touches few of them. How few? This cell plays 200 merges and keeps count.

# %%
NUM_MERGES = 400 if LARGE else 200
merges = bpe.learn_merges(all_words, NUM_MERGES)
words = {bpe.split_bytes(word): count for word, count in all_words.items()}
touched, untouched_changed = [], 0
for pair in merges:
    after = {word: bpe.merge_word(word, pair) for word in words}
    holders = {word for word in words if pair in zip(word, word[1:])}
    untouched_changed += sum(after[word] != word for word in words if word not in holders)
    touched.append(len(holders) / len(words))
    words = {after[word]: count for word, count in words.items()}
print(f"words touched by a merge: first {touched[0]:.1%}, median {np.median(touched):.1%}, last {touched[-1]:.1%}")

# %% [markdown]
# **Claim C01.08: only the words that hold the pair change, so counts can be updated in place.** `merge_steps` recounts,
# `learn_merges` updates. They must find the same merges. Predict the speed-up from the line above.

# %% tags=["nbval-ignore-output"]
some = 12
begin = time.perf_counter()
slow = [step.pair for step in bpe.merge_steps(all_words, some, top=1)]
slow_s = time.perf_counter() - begin
begin = time.perf_counter()
fast = bpe.learn_merges(all_words, NUM_MERGES)
fast_s = time.perf_counter() - begin
speed_up = (slow_s / some) / (fast_s / NUM_MERGES)
claims.judge(
    "C01.08",
    confirmed=slow == fast[:some] and untouched_changed == 0 and speed_up > 2,
    evidence={
        "same merges": slow == fast[:some],
        "changed words without the pair": untouched_changed,
        "median share of words touched": float(np.median(touched)),
        "speed-up for each merge, about": float(f"{speed_up:.1g}"),
    },
)

# %% [markdown]
# The second cost is finding the best pair. A **heap** keeps the largest in front. But counts change all the time, and a
# heap cannot find an old entry to correct it. The trick: leave it. Push a new entry, and when an entry comes up whose
# count is no longer true, throw it away. That is a *lazy* heap.
#
# **Claim C01.09: this gives O(1) access to the best pair.** We count what happens.

# %%
words = [list(bpe.split_bytes(word)) for word in all_words]
times = list(all_words.values())
counts, holders = Counter(), {}
for index, word in enumerate(words):
    for pair in zip(word, word[1:]):
        counts[pair] += times[index]
        holders.setdefault(pair, set()).add(index)
heap = [(-count, pair) for pair, count in counts.items()]  # ties go to the smaller pair here: only the cost matters
heapq.heapify(heap)
pops, stale, largest, front_is_best = 0, 0, len(heap), True
for _ in range(NUM_MERGES):
    while counts[heap[0][1]] != -heap[0][0]:  # heap[0] is a look at the front: O(1)
        heapq.heappop(heap)
        stale += 1
    front_is_best &= -heap[0][0] == max(counts.values())
    best = heapq.heappop(heap)[1]
    pops += 1
    changed = set()
    for index in holders[best]:
        old = words[index]
        words[index] = list(bpe.merge_word(tuple(old), best))
        for pairs, sign in ((zip(old, old[1:]), -1), (zip(words[index], words[index][1:]), +1)):
            for pair in pairs:
                counts[pair] += sign * times[index]
                holders.setdefault(pair, set()).add(index)
                changed.add(pair)
    for pair in changed:
        if counts[pair]:
            heapq.heappush(heap, (-counts[pair], pair))
    largest = max(largest, len(heap))

# %%
claims.judge(
    "C01.09",
    confirmed=front_is_best,
    refuted=stale > pops,
    evidence={
        "front is best after discarding": front_is_best,
        "merges": pops,
        "stale entries thrown away": stale,
        "stale entries for each merge": stale / pops,
        "heap at its largest": largest,
        "comparisons for one pop, about log2 of it": float(np.log2(largest)),
    },
    on="what access means: a look at the front is O(1), taking it out O(log n), and stale entries are paid for on top",
)

# %% [markdown]
# The stale entries are no disaster: each was pushed once, so it is thrown away once. The whole training stays
# near-linear. The worked solution of exercise 6 does without a heap and is fast enough for 100 kB.

# %% [markdown]
# ## 10. Encode by rank
#
# A merge's place in the list is its **rank**. To encode a new word, join the pair of lowest rank, and again, until no
# pair is in the list. This replays the training, so the model meets the tokens that it was trained on.
#
# **Claim C01.10: in "Hello", if `ll` outranks `el`, then `el` can no longer form.** Predict the tokens for both orders.


# %%
def tokens_of(word, merges):
    return [token.decode() for token in bpe.encode_word(word.encode(), {pair: n for n, pair in enumerate(merges)})]


ll, el = (b"l", b"l"), (b"e", b"l")
ll_first, el_first = tokens_of("Hello", [ll, el]), tokens_of("Hello", [el, ll])
claims.judge(
    "C01.10",
    confirmed="ll" in ll_first and "el" not in ll_first and "el" in el_first and "ll" not in el_first,
    evidence={"ll before el": " ".join(ll_first), "el before ll": " ".join(el_first)},
)

# %% [markdown]
# A tempting short cut is to take the longest token that fits. How often is that another answer? We try all words of
# the text that the tokenizer has not seen.


# %%
def longest_first(word, known):
    pieces = []
    while word:
        size = next(n for n in range(len(word), 0, -1) if n == 1 or word[:n] in known)
        pieces.append(word[:size])
        word = word[size:]
    return pieces


ranks = {pair: n for n, pair in enumerate(tokenizer.merges)}
known = set(tokenizer.vocab.values())
new_words = [word for word in sorted(count_words(heldout)) if len(word) > 3]
differ = [w for w in new_words if longest_first(w, known) != bpe.encode_word(w, ranks)]
print(f"{len(differ)} of {len(new_words)} different words are cut otherwise by longest match")
for word in differ[:3]:
    print(
        " ",
        [p.decode() for p in bpe.encode_word(word, ranks)],
        "by rank,",
        [p.decode() for p in longest_first(word, known)],
    )

# %% [markdown]
# **Special tokens** mark roles, such as the end of a document. They are cut out before anything else, the longest
# first, and get ids of their own. A user who types `<|endoftext|>` must not be able to end the document, so the name is
# special only when the caller says so.

# %%
chat = BPETokenizer.train([training[:50_000]], 400, special_tokens=["<|endoftext|>"])
print("trusted: ", chat.encode("end<|endoftext|>"))
print("a user's:", chat.encode("end<|endoftext|>", allow_special=False))

# %% [markdown]
# Decoding is the easy direction: join the bytes, then read UTF-8. The order matters, because a token may end inside a
# character:

# %%
ids = tokenizer.encode("汉字")
print(
    len(ids), "tokens; one by one:", "".join(tokenizer.decode([i]) for i in ids), "- together:", tokenizer.decode(ids)
)

# %% [markdown]
# ## 11. Two other families
#
# **WordPiece** (BERT) also merges pairs, but scores them by $f(ab) / (f(a) f(b))$: how much more often the two meet
# than chance would have it. Pieces inside a word are marked `##`. Words are then cut by longest match.
#
# **Claim C01.13: BPE takes the most frequent pair, WordPiece the pair that raises the corpus likelihood most, and they
# disagree.** The likelihood is that of independent pieces: $L = \sum_t f(t) \log f(t) - N \log N$. We do not have to
# believe the notes: for every pair we compute what merging it does to L.

# %%
corpus_words = {word: count for word, count in word_counts.items() if word.isascii()}
pieces, pairs = Counter(), Counter()
for word, count in corpus_words.items():
    split = wordpiece.split_characters(word)
    for piece in split:
        pieces[piece] += count
    for pair in zip(split, split[1:]):
        pairs[pair] += count


def x_log_x(x):
    return x * np.log(x) if x > 0 else 0.0


def gain(pair):
    a, b, together, total = pieces[pair[0]], pieces[pair[1]], pairs[pair], sum(pieces.values())
    before = x_log_x(a) + x_log_x(b) - x_log_x(total)
    return x_log_x(a - together) + x_log_x(b - together) + x_log_x(together) - x_log_x(total - together) - before


distinct = [pair for pair in pairs if pair[0] != pair[1]]  # a letter beside itself needs another formula
frequent = max(distinct, key=lambda pair: pairs[pair])
score = {pair: pairs[pair] / (pieces[pair[0]] * pieces[pair[1]]) for pair in distinct if pairs[pair] >= 5}
scored = max(score, key=score.get)
likeliest = max(distinct, key=gain)
for name, pair in (("most frequent", frequent), ("highest score", scored), ("highest gain", likeliest)):
    print(f"{name:14s} {wordpiece.join_pieces(*pair):6s} occurs {pairs[pair]:5d} times, gain {gain(pair):8.0f} nats")

# %%
claims.judge(
    "C01.13",
    confirmed=frequent != scored,
    refuted=gain(scored) < 0.5 * gain(likeliest),
    evidence={
        "BPE's pair": " ".join(frequent),
        "WordPiece's pair by its score": " ".join(scored),
        "pair of the highest gain": " ".join(likeliest),
        "gains in nats": [round(gain(pair)) for pair in (frequent, scored, likeliest)],
    },
    on="what WordPiece computes: the two do disagree, but the score f(ab)/(f(a)f(b)) finds rare pairs that stick together; "
    "the pair that raises the likelihood most needs that ratio's logarithm times f(ab)",
)

# %% [markdown]
# So half of the claim is folklore. The score is the gain *for each occurrence*, more or less; the likelihood rises by
# that times the number of occurrences. That is why real WordPiece trainers set a least count for a pair.
#
# **Unigram** (T5, many multilingual models) goes the other way round: begin with far too many pieces, give each a
# probability, and drop those whose loss costs the least likelihood. A text has many segmentations; the best is found
# by **Viterbi**, position by position:
#
# $$\text{best}(e) = \max_{s<e}\ \text{best}(s) + \log p(\text{text}[s{:}e])$$
#
# Predict the winner for `abc`: is greedy right?

# %%
log_probs = {"a": -1.0, "b": -1.0, "c": -3.0, "ab": -1.5, "bc": -1.2}
print(
    "greedy: ab + c =",
    log_probs["ab"] + log_probs["c"],
    "- Viterbi:",
    viterbi_segment("abc", log_probs),
    "=",
    -1.0 - 1.2,
)

# %% [markdown]
# Now the three side by side, trained on the same English text. Choose a text and compare. Hover over a token for its
# id. A dot is a space.

# %%
small = training[: 120_000 if LARGE else 24_000]
unigram = UnigramTokenizer.train([small], vocab_size=500, seed_factor=4)
word_piece = WordPieceTokenizer.train([training[:200_000]], vocab_size=1000, min_count=5)
coarse = BPETokenizer.train([training], vocab_size=512)
texts = {
    "English": samples["English"],
    "Python": samples["Python"],
    "German": samples["German"],
    "Chinese": samples["Chinese"],
    "Hindi": samples["Hindi"],
    "numbers": "In 2024 we sold 1234567 items at 19.99, 3 more than in 1999.",
    "emoji": samples["Emoji"],
}


def show_tokens(sample):
    rows = {
        f"byte-level BPE, {len(tokenizer):,}": [tokenizer.vocab[i] for i in tokenizer.encode(sample)],
        f"byte-level BPE, {len(coarse):,}": [coarse.vocab[i] for i in coarse.encode(sample)],
        f"WordPiece, {len(word_piece):,}": word_piece.tokenize(sample),
        f"Unigram, {len(unigram):,}": unigram.tokenize(sample),
    }
    return pictures.colored_tokens(rows)


figures.interactive_html(
    show_tokens,
    alt=lambda sample: f"A text cut by four tokenizers, each token in a coloured box: {sample[:40]} ...",
    labels={"sample": "text"},
    sample=texts,
)
for name in ("English", "Chinese"):
    unknown = word_piece.tokenize(texts[name]).count("[UNK]")
    print(f"{name}: {len(tokenizer.encode(texts[name]))} BPE tokens, {unknown} unknown words for WordPiece")

# %% [markdown]
# Look at Chinese. WordPiece says `[UNK]` and the text is gone. Byte-level BPE keeps everything and pays with length.

# %% [markdown]
# ## 12. What a tokenizer costs, and whom
#
# The **compression ratio** is bytes of UTF-8 per token. Higher is shorter, and a shorter sequence is cheaper in every
# layer.
#
# **Claim C01.07: it is a property of tokenizer and corpus together.** Two tokenizers, two corpora, four numbers. Predict
# which are the two highest.

# %%
code = text.standard_library_sources(400_000)
tokenizers = {"English": tokenizer, "code": BPETokenizer.train([code[:-60_000]], vocab_size=4096)}
corpora = {"English": heldout, "code": code[-60_000:]}
table = {
    f"trained on {t}, read {c}": compression_ratio(corpora[c], tokenizers[t].encode(corpora[c]))
    for t in tokenizers
    for c in corpora
}
own_en, cross_code, cross_en, own_code = table.values()
claims.judge(
    "C01.07",
    confirmed=own_en / cross_en > 1.05 and own_code / cross_code > 1.05,
    evidence=table,
    note="Neither the tokenizer nor the corpus alone fixes the ratio: each tokenizer is best on its own kind of text.",
)

# %% [markdown]
# **Claim C01.11: a Chinese character becomes three tokens under a tokenizer trained on English, and texts get markedly
# longer.** All our samples say the same two sentences. So we can compare tokens for the same meaning.

# %%
languages = [name for name in samples if name not in ("Python", "Mathematics", "Emoji")]
num_tokens = {name: len(tokenizer.encode(samples[name])) for name in languages}
relative = {name: num_tokens[name] / num_tokens["English"] for name in languages}
for name in sorted(languages, key=relative.get)[:: 1 if LARGE else 3]:
    print(f"{name:22s} {num_tokens[name]:4d} tokens, {relative[name]:4.1f} times English")

# %%
per_character = num_tokens["Chinese"] / len(samples["Chinese"])
claims.judge(
    "C01.11",
    confirmed=relative["Chinese"] > 1.5 and per_character > 2,
    evidence={
        "tokens for a Chinese character": per_character,
        "Chinese against English": relative["Chinese"],
        "German against English": relative["German"],
        "Hindi against English": relative["Hindi"],
        "worst of all languages": max(relative.values()),
    },
    note="In characters the Chinese text is the shortest of all. The bill is made by the tokenizer's training text.",
)

# %% [markdown]
# **Claim C01.15: a larger vocabulary compresses better, with falling returns, and needs a larger embedding table.** One
# training gives all sizes: the first merges of a large vocabulary are a small vocabulary.

# %%
VOCAB_SIZES = [256, 512, 1024, 2048, 4096, 8192] + ([16384] if LARGE else [])
largest = BPETokenizer.train([training], vocab_size=VOCAB_SIZES[-1])


def first_tokens(size):
    vocab = {i: token for i, token in largest.vocab.items() if i < size}
    return BPETokenizer.from_merges(vocab, largest.merges[: size - 256])


by_size = {size: first_tokens(size) for size in VOCAB_SIZES}
measured = {"English, new text": heldout} | {
    name: samples[name] for name in ("German", "Finnish", "Russian", "Hindi", "Chinese")
}
curves = {name: [compression_ratio(t, by_size[size].encode(t)) for size in VOCAB_SIZES] for name, t in measured.items()}


def draw_compression(vocabulary):
    return pictures.compression_curves(VOCAB_SIZES, curves, marked=vocabulary)


figures.interactive(
    draw_compression,
    alt="Bytes per token against vocabulary size for a tokenizer trained on English: new English text rises from 1 to "
    "about 3.5 with falling steps, German and Finnish rise to about 2, Russian, Hindi and Chinese stay at 1",
    labels={"vocabulary": "mark a size"},
    vocabulary=figures.Steps(VOCAB_SIZES, default=2048),
)
print(
    {name: [round(r, 2) for r in ratios] for name, ratios in curves.items() if name in ("English, new text", "Chinese")}
)

# %%
ratios = np.array(curves["English, new text"])
returns = 1000 * np.diff(ratios) / np.diff(VOCAB_SIZES)  # bytes per token won by each further 1,000 tokens
tables_mb = [size * 768 * 2 / 1e6 for size in VOCAB_SIZES]
claims.judge(
    "C01.15",
    confirmed=bool((np.diff(ratios) > 0).all() and (np.diff(returns) < 0).all()),
    evidence={
        "vocabulary": VOCAB_SIZES,
        "bytes per token": ratios.tolist(),
        "won by each further 1,000 tokens": returns.tolist(),
        "table in MB (width 768, 2 bytes)": tables_mb,
    },
)

# %% [markdown]
# Set the price against the gain. GPT-2's smallest model has 50,257 tokens of width 768: 38.6 million of its 124 million
# numbers are the embedding table. With 128,000 tokens the same table would hold 98 million. A model of 70 billion does
# not notice. That is why vocabularies grow with models (arXiv:2407.13623).

# %%
for vocabulary in (8_192, 50_257, 128_000):
    for name, width, others in (("small", 768, 85e6), ("large", 8192, 69e9)):
        share = vocabulary * width / (vocabulary * width + others)
        print(
            f"{name}, {vocabulary:7,d} tokens: the table is {share:5.1%} of the model",
            end="; " if name == "small" else "\n",
        )

# %% [markdown]
# ## 13. Numbers
#
# GPT-2's pattern cuts `1234567` into whatever tokens the training text happened to favour. Newer models split numbers
# into single digits or groups of three. Is that needed to learn arithmetic?
#
# **Claim C01.12: single digits are needed for arithmetic that generalises.** We teach small networks to add two numbers
# below 100. One kind reads and writes digits. The other has a token for every whole number. Each is asked three new
# things: new *pairs* of known numbers, sums with *numbers* it never saw, and *longer* numbers of three digits.
#
# Predict the nine cells of the table below: high, middling or zero?


# %%
def digits(numbers, places):
    return torch.stack([numbers // 10**place % 10 for place in reversed(range(places))], dim=-1)


def as_tokens(a, b, kind):
    """Token ids of the question and of the answer; whole numbers above 198 have no token of their own and share one."""
    if kind == "digits":
        return torch.cat([digits(a, 3), digits(b, 3)], -1), digits(a + b, 4)
    return torch.stack([a, b], -1).clamp(max=199), (a + b)[..., None].clamp(max=199)


def new_questions(generator):
    """Known pairs, new pairs, pairs with a number that is held out, pairs of longer numbers."""
    held = torch.zeros(100, dtype=torch.bool)
    held[torch.randperm(100, generator=generator)[:15]] = True
    a, b = torch.cartesian_prod(torch.arange(100), torch.arange(100)).T
    is_new_number = held[a] | held[b]
    known = (~is_new_number).nonzero()[:, 0]
    known = known[torch.randperm(len(known), generator=generator)]
    split = int(0.7 * len(known))
    longer = torch.randint(100, 1000, (2, 1000), generator=generator)
    places = {"known": known[:split], "pairs": known[split:], "numbers": is_new_number.nonzero()[:, 0]}
    return {name: (a[i], b[i]) for name, i in places.items()} | {"longer": (longer[0], longer[1])}


# %% [markdown]
# The network looks up a vector for each token, puts them side by side and passes them through one hidden layer. Three
# networks with different seeds and different held-out numbers are trained at once.


# %%
def train_adders(kind, width, num_steps, learning_rate, seeds=3, hidden=64, batch=256):
    """Accuracy on each kind of question, one number a seed."""
    generator = torch.Generator().manual_seed(7)
    questions = [new_questions(generator) for _ in range(seeds)]
    vocabulary = 10 if kind == "digits" else 200
    slots, answers = (t.shape[-1] for t in as_tokens(*questions[0]["known"], kind))
    shapes = (
        (vocabulary, width),
        (slots * width, hidden),
        (1, hidden),
        (hidden, answers * vocabulary),
        (1, answers * vocabulary),
    )
    scales = (0.5, (slots * width) ** -0.5, 0.0, hidden**-0.5, 0.0)
    weights = [
        (scale * torch.randn(seeds, *shape, generator=generator)).requires_grad_()
        for shape, scale in zip(shapes, scales)
    ]
    each = torch.arange(seeds)[:, None, None]

    def forward(tokens):
        vectors = weights[0][each, tokens].flatten(2)
        inner = torch.relu(vectors @ weights[1] + weights[2])
        return (inner @ weights[3] + weights[4]).unflatten(-1, (answers, vocabulary))

    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, num_steps)
    known = [as_tokens(*q["known"], kind) for q in questions]
    for _ in range(num_steps):
        picked = [torch.randint(len(x), (batch,), generator=generator) for x, _ in known]
        x = torch.stack([x[i] for (x, _), i in zip(known, picked)])
        y = torch.stack([y[i] for (_, y), i in zip(known, picked)])
        loss = torch.nn.functional.cross_entropy(forward(x).flatten(0, 2), y.flatten()) * seeds
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def accuracy(name):
        sums = []
        for seed, q in enumerate(questions):
            x, y = as_tokens(*q[name], kind)
            right = (forward(x.expand(seeds, -1, -1))[seed].argmax(-1) == y).all(-1)
            right &= (
                q[name][0] + q[name][1] < 199 if kind == "whole" else True
            )  # above it there is no token to answer with
            sums.append(right.double().mean().item())
        return sums

    with torch.no_grad():
        return {name: accuracy(name) for name in questions[0]}


# %%
more = 3 if LARGE else 1
added = {
    "single digits": train_adders("digits", width=32, num_steps=1000 * more, learning_rate=0.01),
    "whole numbers, wide": train_adders("whole", width=32, num_steps=1500 * more, learning_rate=0.01),
    "whole numbers, narrow": train_adders("whole", width=4, num_steps=1500 * more, learning_rate=0.03),
}
for name, result in added.items():
    print(f"{name:22s}", {kind: [round(a, 2) for a in accuracies] for kind, accuracies in result.items()})

# %%
median = {name: {kind: float(np.median(a)) for kind, a in result.items()} for name, result in added.items()}
whole = ("whole numbers, wide", "whole numbers, narrow")
claims.judge(
    "C01.12",
    confirmed=min(added["single digits"]["numbers"]) > 0.5 and max(max(added[n]["numbers"]) for n in whole) < 0.1,
    refuted=median["whole numbers, narrow"]["pairs"] > 0.5,
    evidence={
        "new pairs: digits, whole wide, whole narrow": [median[n]["pairs"] for n in median],
        "new numbers: the same": [median[n]["numbers"] for n in median],
        "longer numbers: the same": [median[n]["longer"] for n in median],
    },
    on="what is new: a number without training needs digits; new pairs of known numbers do not, if the vectors are narrow "
    "enough to force an order on the numbers; longer numbers defeat both",
)

# %% [markdown]
# Read the table by its reasons. A whole number that was never trained has a random vector: nothing could be learned
# about it. Digits are all trained. With four numbers a vector, the network cannot memorise 70 % of all pairs, so it
# must put the numbers in order, and then new pairs come for free. Longer numbers fail with digits too: the place of the
# hundreds was always 0 in training. Splitting helps; it is not the whole story.

# %% [markdown]
# ## What we found

# %%
for number in range(1, 16):
    claim = claims.recorded()[f"C01.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. Why can a decoder that starts in the middle of a UTF-8 text find the next character?</summary>
#
# Continuation bytes begin with 10, first bytes never do. It skips at most three bytes.
# </details>
#
# <details><summary>2. Why is C0 AF refused, although its bits say '/'?</summary>
#
# It is overlong: '/' fits in one byte. If both forms were legal, a filter that looks for '/' could be passed.
# </details>
#
# <details><summary>3. Words `aaab` (5 times) and `aab` (2 times): which pair is merged first, and what are the words then?</summary>
#
# (a, a) counts 2·5 + 1·2 = 12, (a, b) counts 7. Then `aa a b` and `aa b`: from the left, without overlap.
# </details>
#
# <details><summary>4. A tie between (AB, A) and (A, BB). Which is merged?</summary>
#
# (AB, A): tuples compare their first tokens, and AB is greater than A. Joined they would compare the other way round.
# </details>
#
# <details><summary>5. The compression ratio of a model's tokenizer on your text is 1.0. What does that say?</summary>
#
# No merge ever applied: every byte is a token. The tokenizer was trained on other text, most likely another script.
# </details>
#
# <details><summary>6. You double the vocabulary. Name one thing that gets cheaper and two that get dearer.</summary>
#
# Sequences get shorter. The embedding table and the output layer grow, and the rare tokens see fewer examples each.
# </details>
#
# <details><summary>7. Why must a tokenizer not normalise with NFKC?</summary>
#
# It cannot give the text back: x² becomes x2. A model that writes code or mathematics would change its meaning.
# </details>
#
# ## Further reading
# - Neural Machine Translation of Rare Words with Subword Units (BPE), arXiv:1508.07909
# - Language Models are Unsupervised Multitask Learners (GPT-2, byte-level BPE), Radford et al. 2019
# - Subword Regularization (Unigram), arXiv:1804.10959; SentencePiece, arXiv:1808.06226
# - BERT (WordPiece in use), arXiv:1810.04805; Fast WordPiece Tokenization, arXiv:2012.15524
# - Language Model Tokenizers Introduce Unfairness Between Languages, arXiv:2305.15425
# - Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs, arXiv:2402.14903
# - Scaling Laws with Vocabulary, arXiv:2407.13623
# - The Unicode Standard, annexes 15 (normal forms) and 29 (grapheme clusters); RFC 3629 (UTF-8)
#
# Next: the assignment of this chapter. You will write all of this yourself, and be told within a second when it is wrong.
