# %% [markdown]
# # 01 Tokenizer and Unicode: from characters to tokens
# *Time: 120 minutes. Builds on: nothing but Python.*
#
# A language model never sees a letter. It sees numbers, and somebody decided which piece of text gets which number.
# That decision fixes what the model costs in Chinese, whether it can add, and how it fails on an emoji.
#
# After this lesson you can
# - write any character as bits in UTF-8, UTF-16 and UTF-32, and say why one text has several lengths;
# - train byte-pair encoding by hand, say what makes it fast, and encode by rank;
# - tell BPE, WordPiece and Unigram apart by what each of them maximises;
# - measure what a vocabulary costs and what it saves, by language.
#
# Fifteen claims from study notes are tested on the way, each in a cell that computes its verdict: `confirmed`, `refuted`
# or `depends`. Change the numbers and see whether the verdict stands.

# %% tags=["parameters"]
SCALE = "quick"  # "quick" under a minute; "full" and "gpu" train longer, on the CPU

# %%
import heapq
import sys
import time
from collections import Counter
from itertools import pairwise

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
# Write down for each of these texts how many **characters** it has, as Python's `len` counts them, and how many
# **bytes** it takes in UTF-8: `naïve`, `汉字`, `👩‍👩‍👧`, `🇩🇪`. Then run the cell.

# %%
for sample in ("naïve", "汉字", "👩‍👩‍👧", "🇩🇪"):
    n = text.text_sizes(sample)
    seen = f"{sample}: a reader sees {n.graphemes}, Python counts {n.code_points}"
    print(f"{seen}; bytes in UTF-8 / 16 / 32: {n.utf8_bytes} / {n.utf16_bytes} / {n.utf32_bytes}")

# %% [markdown]
# One family is one thing to a reader, 5 characters to Python and 18 bytes to a disk. All of these are called "length",
# and most bugs in text handling confuse two of them. We take them one at a time.
#
# ## 2. Code points: a number for every character
#
# Unicode gives every character a number, its **code point**, written U+ and hexadecimal digits. The numbers lie in 17
# **planes** of 65,536 each. Nearly everything that you read every day is in plane 0.

# %%
for character in "Aé汉𠀀😉":
    print(character, text.label(ord(character)), "- plane", *text.plane(ord(character)))

# %% [markdown]
# **Claim C01.02: the code space is 2^21 code points.** Predict: is 17 · 65,536 the same as 2^21?

# %%
code_points = sys.maxunicode + 1
bits = (code_points - 1).bit_length()
claims.judge(
    "C01.02",
    confirmed=bits == 21,
    refuted=code_points != 2**21,
    evidence={"code points": code_points, "planes": code_points // 2**16, "2^21": 2**21, "bits to number them": bits},
    on="what is counted: 21 bits are needed to number them, but little more than half of the 2^21 numbers are used",
)

# %% [markdown]
# Why such an odd end, 0x10FFFF? Because UTF-16 cannot count further; section 4 shows it. The first 128 code points are
# **ASCII**, from the 1960s. The two cases of a letter are 32 apart, so that one bit tells them apart. Some programs take that
# for a rule.
#
# **Claim C01.06: two characters that differ by 32 are not always one letter's two cases.** Predict: which others?

# %%
differ_by_32 = [chr(n) + chr(n + 32) for n in range(0x40, 0x60)]
others = [pair for pair in differ_by_32 if pair[0].lower() != pair[1]]
evidence = {"pairs in 40..5F": len(differ_by_32), "no two cases of a letter": others}
claims.judge("C01.06", confirmed=len(others) > 0, evidence=evidence)

# %% [markdown]
# ## 3. Before Unicode: one byte, many meanings
#
# ASCII uses 128 of a byte's 256 values, and every country filled the rest in its own way. Chinese needs two bytes:
# GB2312 (1980) has 6,763 Chinese characters, GBK (1995) over 20,000. A character has other bytes in each, or none.
# Bytes do not say which encoding wrote them. Read with the wrong one, they become **mojibake**. Predict: what does `é`,
# written as UTF-8, look like to a program that reads Latin-1?

# %%
for character in "é汉漢":
    forms = text.encodings_of(character, ["ascii", "latin-1", "gb2312", "gbk", "big5", "utf-8"])
    print(character, {name: data.hex(" ").upper() if data else "-" for name, data in forms.items()})
print("UTF-8 read as Latin-1:", text.mojibake("naïve café"), "- GBK:", text.mojibake("汉字", written_as="gbk"))

# %% [markdown]
# Mojibake is in every web crawl. A tokenizer that sees enough of it spends tokens on `Ã©`.
#
# ## 4. Three ways to write a number: UTF-8, UTF-16, UTF-32
#
# UTF-32 writes each code point in four bytes. UTF-8 puts the length into the first byte and marks every further one:
#
# | code points | bytes | bit pattern | room |
# |---|---|---|---|
# | U+0000 to U+007F | 1 | `0xxxxxxx` | 7 bits |
# | U+0080 to U+07FF | 2 | `110xxxxx 10xxxxxx` | 11 bits |
# | U+0800 to U+FFFF | 3 | `1110xxxx 10xxxxxx 10xxxxxx` | 16 bits |
# | U+10000 to U+10FFFF | 4 | `11110xxx 10xxxxxx 10xxxxxx 10xxxxxx` | 21 bits |
#
# Take 汉, U+6C49. It needs 15 bits, so three bytes. Write it with 16 bits and cut for the pattern:
# `0110 110001 001001`. Put the marks in front: `1110`0110 `10`110001 `10`001001. That is E6 B1 89.
#
# Type a character of your own. Coloured boxes carry the code point, white boxes are fixed.

# %%
figures.interactive(
    lambda character: pictures.bit_layout(ord((character or "?")[0])),
    alt=lambda character: f"The bits of {text.label(ord((character or '?')[0]))} in UTF-8, UTF-16 and UTF-32",
    character="汉",
)
print("汉:", text.utf8_encode(0x6C49).hex(" "), "|", text.utf16_encode(0x6C49).hex(" "))

# %% [markdown]
# **Claim C01.01: UTF-8 keeps ASCII byte for byte, takes 1 to 4 bytes, and 汉 is E6 B1 89.** We ask all code points, not
# a sample. One of the notes (E) prints the bytes as E6 B7 89. What is that?

# %%
legal = [n for n in range(code_points) if n not in text.SURROGATES]
lengths = Counter(len(chr(n).encode()) for n in legal)
ascii_kept = all(chr(n).encode() == bytes([n]) for n in range(128))
written, in_note = text.utf8_encode(0x6C49).hex(" ").upper(), bytes.fromhex("E6B789").decode()
evidence = {"code points of 1, 2, 3, 4 bytes": [lengths[size] for size in (1, 2, 3, 4)], "bytes of U+6C49": written}
evidence["E6 B7 89 is"] = f"U+{ord(in_note):04X}, another character"
confirmed = ascii_kept and set(lengths) == {1, 2, 3, 4} and written == "E6 B1 89"
claims.judge("C01.01", confirmed=confirmed, evidence=evidence)

# %% [markdown]
# UTF-16 writes U+0000 to U+FFFF in two bytes. For the rest it uses pairs: take 0x10000 off, which leaves 20 bits. Ten go
# into a unit of D800..DBFF, ten into one of DC00..DFFF. $2^{16} + 2^{20}$ = 1,114,112: there is the odd end of Unicode.
#
# **Claim C01.03: readers of UTF-16 tell the two kinds apart by the empty range D800..DFFF.** For that, no two-byte
# character may have a unit in the range, and every unit of a pair must have one.

# %%
units = np.frombuffer("".join(map(chr, legal)).encode("utf-16-be"), dtype=">u2")
num_single = 0x10000 - len(text.SURROGATES)
inside = (units >= 0xD800) & (units <= 0xDFFF)
singles, halves = int(inside[:num_single].sum()), int(inside[num_single:].sum())
evidence = {"single units in the range": singles, "units of pairs": len(units) - num_single, "in the range": halves}
claims.judge("C01.03", confirmed=singles == 0 and halves == len(units) - num_single, evidence=evidence)

# %% [markdown]
# **Claim C01.04: UTF-32 spends four bytes on each code point, so English grows fourfold.** And other languages? We have
# half a megabyte of English (Python's documentation) and the same two sentences in thirty languages.

# %%
samples, english = text.same_text(), text.python_documentation()
growth = {name: len(t.encode("utf-32-be")) / len(t.encode()) for name, t in samples.items()}
growth["Python's documentation"] = len(english.encode("utf-32-be")) / len(english.encode())
always_four = all(len(t.encode("utf-32-be")) == 4 * len(t) for t in samples.values())
shown = {name: growth[name] for name in ("Python's documentation", "German", "Russian", "Chinese", "Emoji")}
claims.judge("C01.04", confirmed=always_four and abs(shown["Python's documentation"] - 4) < 0.05, evidence=shown)

# %% [markdown]
# **Claim C01.05: an emoji needs four bytes, so a store that takes only three loses it.** MySQL's old `utf8` was such a
# store. We count the bytes of emoji, each being what a reader sees as one.

# %%
emoji = [g for g in text.graphemes(samples["Emoji"]) if not g.isspace() and g != "!"] + ["☀", "✅", "⌚"]
num_bytes = [len(g.encode()) for g in emoji]
kept = [g for g in emoji if all(len(c.encode()) <= 3 for c in g)]
print(", ".join(f"{g} {size}" for g, size in zip(emoji, num_bytes)))
claims.judge(
    "C01.05",
    confirmed=num_bytes.count(4) > 0,
    refuted=len(kept) > 0,
    evidence={"emoji": len(emoji), "of 4 bytes": num_bytes.count(4), "kept": len(kept), "longest": max(num_bytes)},
    on="the emoji: older symbols take 3 bytes and survive, many take 4, and sequences such as a family far more",
)

# %% [markdown]
# ## 5. Two spellings of one word: normalisation and grapheme clusters
#
# `é` can be one code point, or `e` and an accent that joins it. They look the same and are not equal. A **normal form**
# chooses one: NFC composes, NFD takes apart, NFKC and NFKD also replace look-alikes.

# %%
print("equal:", "é" == "e\u0301", "- after NFC:", text.normalize("é", "NFC") == text.normalize("e\u0301", "NFC"))
for sample in ("é", "ﬁ", "²", "한"):
    print(sample, {form: [f"{ord(c):04X}" for c in text.normalize(sample, form)] for form in ("NFC", "NFD", "NFKC")})
family = "👩‍👩‍👧 and 🇩🇪"
print("first code point:", family[0], "- first cluster:", text.graphemes(family)[0])

# %% [markdown]
# NFKC turns x² into x2. That is fine for a search box and wrong for a language model, which must give back what it was
# given. So most modern tokenizers normalise little or nothing, and byte-level BPE works without.
#
# What a reader takes for one character is a **grapheme cluster**. Whoever shortens a text must not cut inside one: the
# first code point of the family is a lone woman.
#
# ## 6. Characters, words or bytes?
#
# A model needs a list of symbols. Which?
# - **Characters**: some 150,000, and growing. Most are so rare that a model never learns what they mean.
# - **Words**: let us look. Predict: of the different words in Python's documentation, what share occurs exactly once?

# %%
word_counts = Counter(word.strip().lower() for word in words_of(english) if word.strip().isalpha())
once = sum(count == 1 for count in word_counts.values()) / len(word_counts)
print(f"{sum(word_counts.values()):,} words, {len(word_counts):,} different, {once:.0%} of them occur once")
print("commonest:", word_counts.most_common(6))

# %% [markdown]
# Zipf saw it in 1935: the word of rank r occurs about 1/r as often as the first. On logarithmic axes that is a line of
# slope -1. The picture compares words with 4,096 BPE tokens on the same text. Which of them ends with fewer rare ones?

# %%
training, heldout = english[:-60_000], english[-60_000:]
tokenizer = BPETokenizer.train([training], vocab_size=4096)
series = {"BPE tokens": Counter(tokenizer.encode(english)), "characters": Counter(english)}


def draw_zipf(second, last):
    chosen = {"words": list(word_counts.values()), second: list(series[second].values())}
    return pictures.zipf(chosen, ranks=(1, min(last, *map(len, chosen.values()))))


figures.interactive(
    draw_zipf,
    alt="Occurrences against rank on logarithmic axes. Words lie along a line of slope about -1 and end in a long flight "
    "of steps at 3, 2 and 1 occurrences; BPE tokens run above them, and fewer of them are rare",
    labels={"second": "compare with", "last": "fit ranks 1 to"},
    second=list(series),
    last=figures.Steps([30, 100, 300, 1000, 3000], default=1000),
)
every = {"words": word_counts, **series}
rare = {name: sum(count < 5 for count in counts.values()) / len(counts) for name, counts in every.items()}
print("share that occurs less than 5 times:", {name: f"{share:.0%}" for name, share in rare.items()})

# %% [markdown]
# **Claim C01.14: words are too unevenly frequent to be tokens.** Too uneven means a slope near -1 with a long tail of
# words that nothing can be learned about. A list learned from one part of a text then lacks words of the next part.

# %%
learned = {word for word, _ in Counter(words_of(training)).most_common(4096)}
new_words = words_of(heldout)
missing = sum(word not in learned for word in new_words) / len(new_words)
slope = text.zipf_slope(count for _, count in word_counts.most_common(1000))
evidence = {"slope of words": slope, "share of words below 5 occurrences": rare["words"]}
evidence |= {"share of BPE tokens below 5": rare["BPE tokens"], "new text outside the 4,096 commonest words": missing}
claims.judge("C01.14", confirmed=-1.4 < slope < -0.7 and rare["words"] > 0.3 and missing > 0.02, evidence=evidence)

# %% [markdown]
# The third choice: **bytes**. 256 symbols, and nothing is ever unknown. But texts become long: 3 symbols for 汉.
#
# Subwords take the best of both: start from bytes, then give frequent sequences a symbol of their own.
#
# ## 7. Cut first: pre-tokenisation
#
# Without a rule, BPE would learn `of the` as a token, and `dog.`, `dog!` and `dog?` as three. So text is first cut into
# words, and no token reaches across a cut. GPT-2's pattern keeps one space with the word that follows it. Predict: into
# how many words is `don't   stop: x12` cut? There are three spaces in a row.

# %%
for sample in ("don't   stop: x12", "if x==10:\n    return", "汉字很难学。"):
    print(words_of(sample), "- joined again:", "".join(words_of(sample)) == sample)
for name in ("gpt2", "cl100k", "qwen2"):
    print(f"{name:6s}", words_of("It's 1234567 items", name))

# %% [markdown]
# Nothing is lost. A Chinese sentence without spaces is a single word. Newer patterns differ above all on numbers.
#
# ## 8. Byte-pair encoding, one merge at a time
#
# 1. Write every word as bytes and count the words.
# 2. Count each pair of neighbours, times the count of its word.
# 3. Join the most frequent pair everywhere. Of equally frequent pairs, the greater pair of bytes.
# 4. Repeat.
#
# Here are eight words with their true counts in the documentation. Predict the first two merges, then move the slider.

# %%
all_words = count_words(training)
chosen = (b" the", b" then", b" this", b" that", b" other", b" method", b" methods", b" there")
corpus = {word: all_words[word] for word in chosen}
steps = list(bpe.merge_steps(corpus, num_merges=14, top=6))
frames = [({bpe.split_bytes(w): n for w, n in corpus.items()}, None), *((s.words, s.pair) for s in steps)]


def show_step(step):
    words, merged = frames[step]
    ordered = sorted(words.items(), key=lambda item: (-item[1], b"".join(item[0])))
    return pictures.merge_frame(ordered, bpe.rank_pairs(bpe.count_pairs(words), top=6), step=step, merged=merged)


figures.interactive_html(
    show_step,
    alt=lambda step: f"Eight words after {step} merges, as tokens, beside the most frequent pairs and their counts",
    play="step",
    step=(0, len(frames) - 1, 2),
)
print([(b"".join(step.pair).decode(), step.count) for step in steps[:6]])

# %% [markdown]
# Watch what a merge does to the pairs beside it. When `t h` is joined, the counts of ` t` and `h e` fall, and pairs with
# `th` appear. Words without the pair do not move at all. That is the key to speed.
#
# ## 9. Fast: change only what changes
#
# The plain loop recounts all words after every merge. The documentation has about 6,000 different words. How many of
# them does a merge touch? Predict, then play 100 merges and keep count.

# %%
NUM_MERGES = 400 if LARGE else 100
merges = bpe.learn_merges(all_words, NUM_MERGES)
words, touched, moved = {bpe.split_bytes(word) for word in all_words}, [], 0
for pair in merges:
    after = {word: bpe.merge_word(word, pair) for word in words}
    holders = {word for word in words if pair in pairwise(word)}
    moved += sum(after[word] != word for word in words - holders)
    touched.append(len(holders) / len(words))
    words = set(after.values())
print(f"words touched: first merge {touched[0]:.1%}, median {np.median(touched):.1%}, last {touched[-1]:.1%}")

# %% [markdown]
# **Claim C01.08: only the words that hold the pair change, so counts can be updated in place.** `merge_steps` recounts,
# `learn_merges` updates. They must find the same merges. Predict the speed-up from the line above.

# %% tags=["nbval-ignore-output"]
begin = time.perf_counter()
slow = [step.pair for step in bpe.merge_steps(all_words, num_merges=12, top=1)]
middle = time.perf_counter()
fast = bpe.learn_merges(all_words, NUM_MERGES)
speed_up = ((middle - begin) / len(slow)) / ((time.perf_counter() - middle) / NUM_MERGES)
print(f"a merge with recounting takes {speed_up:.0f} times as long as one with updating")
same = slow == fast[: len(slow)]
evidence = {"same merges": same, "changed words without the pair": moved, "median share": float(np.median(touched))}
evidence["speed-up at least"] = 10 ** int(np.log10(speed_up))
claims.judge("C01.08", confirmed=same and moved == 0 and speed_up > 2, evidence=evidence)

# %% [markdown]
# The second cost is finding the best pair. A **heap** keeps its largest entry in front. But counts change all the time,
# and a heap cannot find an old entry to correct it. So leave it there: push a new entry, and when one comes up whose
# count is no longer true, throw it away. That is a *lazy* heap.
#
# **Claim C01.09: this gives O(1) access to the best pair.** We count what happens in the same 100 merges.

# %%
words, times = [bpe.split_bytes(word) for word in all_words], list(all_words.values())
counts, holders = Counter(), {}


def count_word(index, sign):
    for pair in pairwise(words[index]):
        counts[pair] += sign * times[index]
        holders.setdefault(pair, set()).add(index)
    return set(pairwise(words[index]))


changed = {pair for index in range(len(words)) for pair in count_word(index, +1)}
heap, stale, largest, front_is_best = [], 0, 0, True
for _ in range(NUM_MERGES):
    for pair in changed:
        heapq.heappush(heap, (-counts[pair], pair))  # ties go to the smaller pair: here only the cost matters
    largest = max(largest, len(heap))
    while counts[heap[0][1]] != -heap[0][0]:  # heap[0] is a look at the front; nothing moves
        heapq.heappop(heap)
        stale += 1
    front_is_best &= -heap[0][0] == max(counts.values())
    best, changed = heapq.heappop(heap)[1], set()
    for index in holders[best]:
        changed |= count_word(index, -1)
        words[index] = bpe.merge_word(words[index], best)
        changed |= count_word(index, +1)
evidence = {"front is best": front_is_best, "merges": NUM_MERGES, "stale entries for each merge": stale / NUM_MERGES}
evidence |= {"largest heap": largest, "levels of it (log2)": float(np.log2(largest))}
meaning = "what access means: a look at the front is O(1), taking it out O(log n), and the stale entries come on top"
claims.judge("C01.09", confirmed=front_is_best, refuted=stale > NUM_MERGES, evidence=evidence, on=meaning)

# %% [markdown]
# Stale entries are no disaster: each was pushed once, so it is thrown away once.
#
# ## 10. Encode by rank
#
# A merge's place in the list is its **rank**. To encode a word, join the pair of lowest rank, and again, until no pair
# is in the list. This replays the training, so the model meets the tokens that it was trained on.
#
# **Claim C01.10: in "Hello", if `ll` outranks `el`, then `el` can no longer form.** Predict the tokens for both orders.


# %%
def tokens_of(word, ranks):
    return [token.decode() for token in bpe.encode_word(word.encode(), ranks)]


ll, el = (b"l", b"l"), (b"e", b"l")
ll_first, el_first = tokens_of("Hello", {ll: 0, el: 1}), tokens_of("Hello", {el: 0, ll: 1})
evidence = {"ll before el": " ".join(ll_first), "el before ll": " ".join(el_first)}
claims.judge("C01.10", confirmed="el" not in ll_first and "ll" not in el_first, evidence=evidence)

# %% [markdown]
# A tempting short cut is to take the longest token that fits. How often is that another answer, on words of new text?


# %%
def longest_first(word, known):
    pieces = []
    while word:
        size = next(n for n in range(len(word), 0, -1) if n == 1 or word[:n] in known)
        pieces.append(word[:size])
        word = word[size:]
    return pieces


ranks, known = {pair: rank for rank, pair in enumerate(tokenizer.merges)}, set(tokenizer.vocab.values())
letters = [word.decode() for word in sorted(count_words(heldout)) if word.isascii() and word.strip().isalpha()]
both = {word: (tokens_of(word, ranks), longest_first(word.encode(), known)) for word in letters}
differ = [" | ".join(a) + " by rank" for a, b in both.values() if a != [token.decode() for token in b]]
print(f"{len(differ)} of {len(letters)} different words are cut otherwise by longest match:", differ[:4])

# %% [markdown]
# **Special tokens** mark roles, such as the end of a document. They are cut out before anything else, the longest
# first, and have ids of their own. A user who types `<|endoftext|>` must not be able to end the document, so the
# spelling is special only when the caller says so.
#
# Decoding is the easy direction, with one trap: a token may end inside a character. Join the bytes, then read UTF-8.

# %%
chat = BPETokenizer.train([training[:50_000]], 400, special_tokens=["<|endoftext|>"])
trusted, untrusted = (chat.encode("end<|endoftext|>", allow_special=allowed) for allowed in (True, False))
print("trusted:", trusted, "- from a user:", len(untrusted), "ordinary tokens")
ids = tokenizer.encode("汉字")
one_by_one = "".join(tokenizer.decode([i]) for i in ids)
print(f"{len(ids)} tokens, decoded one by one: {one_by_one} - together: {tokenizer.decode(ids)}")

# %% [markdown]
# ## 11. Two other families
#
# **WordPiece** (BERT) also merges pairs, but scores them by $f(ab) / (f(a) f(b))$: how much more often the two meet
# than chance would have it. Pieces inside a word are marked `##`. Words are then cut by longest match.
#
# **Claim C01.13: BPE takes the most frequent pair, WordPiece the pair that raises the corpus likelihood most, and they
# disagree.** The likelihood is that of independent pieces, $\log L = \sum_t f(t) \log f(t) - N \log N$. We need not
# believe anybody: for every pair we compute what merging it does to $\log L$. Predict: which rule wins?

# %%
pieces, pairs = Counter(), Counter()
for word, count in word_counts.items():
    split = wordpiece.split_characters(word)
    for piece in split:
        pieces[piece] += count
    for pair in pairwise(split):
        pairs[pair] += count
total = sum(pieces.values())


def log_likelihood(*counts):  # of the given pieces; the last count is N, that of all pieces
    logs = [count * np.log(count) if count else 0.0 for count in counts]
    return float(sum(logs[:-1]) - logs[-1])


def gain(pair):
    n, a, b = pairs[pair], pieces[pair[0]], pieces[pair[1]]
    return log_likelihood(a - n, b - n, n, total - n) - log_likelihood(a, b, total)


different = [pair for pair in pairs if pair[0] != pair[1] and pairs[pair] >= 5]  # (a, a) needs another formula
rules = {"count": pairs.get, "score": lambda pair: pairs[pair] / (pieces[pair[0]] * pieces[pair[1]]), "gain": gain}
best = {name: max(different, key=rule) for name, rule in rules.items()}
for name, pair in best.items():
    joined = wordpiece.join_pieces(*pair)
    print(f"highest {name:6s} {joined:5s} occurs {pairs[pair]:5d} times, gain {gain(pair):7,.0f} nats")
evidence = {f"pair of the highest {name}": " ".join(pair) for name, pair in best.items()}
evidence |= {f"gain of the highest {name}, nats": round(gain(pair)) for name, pair in best.items()}
claims.judge(
    "C01.13",
    confirmed=best["count"] != best["score"],
    refuted=gain(best["score"]) < 0.5 * gain(best["gain"]),
    evidence=evidence,
    on="which half: the two do disagree, but WordPiece's score does not find the pair that raises the likelihood most",
)

# %% [markdown]
# So half of the claim is folklore. The logarithm of the score is about the gain *for each occurrence*; the likelihood
# rises by that times their number. The score alone likes rarer pairs that stick together, as in *object*.
#
# **Unigram** (T5 and many multilingual models) goes the other way round: begin with far too many pieces, give each a
# probability, and drop those whose loss costs the least likelihood. A text then has many segmentations; **Viterbi**
# finds the best one, position by position:
#
# $$\text{best}(e) = \max_{s<e}\ \text{best}(s) + \log p(\text{text}[s{:}e])$$
#
# Predict the winner for `abc`: is taking the longest piece right?

# %%
log_probs = {"a": -1.0, "b": -1.0, "c": -3.0, "ab": -1.5, "bc": -1.2}
for name, way in (("longest piece first", ["ab", "c"]), ("Viterbi", viterbi_segment("abc", log_probs))):
    print(f"{name}: {' + '.join(way)} = {sum(log_probs[piece] for piece in way):.1f}")

# %% [markdown]
# Now all three side by side, trained on English text. Choose a text and compare. A dot, or a low line, is a space.

# %%
coarse = BPETokenizer.train([training], vocab_size=512)
word_piece = WordPieceTokenizer.train([training[:100_000]], vocab_size=800, min_count=5)
unigram = UnigramTokenizer.train([training[: 120_000 if LARGE else 24_000]], vocab_size=500, seed_factor=4)
menu = {name: samples[name] for name in ("English", "Python", "German", "Chinese", "Hindi", "Emoji")}
menu["numbers"] = "In 2024 we sold 1234567 items at 19.99, 3 more than in 1999."


def show_tokens(sample):
    rows = {f"byte-level BPE, {len(t):,} tokens": [t.vocab[i] for i in t.encode(sample)] for t in (tokenizer, coarse)}
    rows[f"WordPiece, {len(word_piece):,} pieces"] = word_piece.tokenize(sample)
    rows[f"Unigram, {len(unigram):,} pieces"] = unigram.tokenize(sample)
    return pictures.colored_tokens(rows)


figures.interactive_html(
    show_tokens,
    alt=lambda sample: f"A text cut by four tokenizers, each token in a coloured box: {sample[:40]} ...",
    sample=menu,
)
for name in ("English", "Chinese"):
    unknown = word_piece.tokenize(menu[name]).count("[UNK]")
    print(f"{name}: {len(tokenizer.encode(menu[name]))} BPE tokens; WordPiece knows nothing of {unknown} words")

# %% [markdown]
# Choose Chinese. WordPiece says `[UNK]`, and the text is gone. Byte-level BPE keeps everything and pays with length.
#
# ## 12. What a tokenizer costs, and whom
#
# The **compression ratio** is UTF-8 bytes per token. Higher is shorter, and a shorter sequence is cheaper in every layer.
#
# **Claim C01.07: it is a property of tokenizer and corpus together.** Two tokenizers, two texts that neither has seen,
# four numbers. Predict which two are the highest.

# %%
code = text.standard_library_sources(4_000_000 if LARGE else 400_000)
trained = {"English": tokenizer, "code": BPETokenizer.train([code[:-60_000]], vocab_size=4096)}
read = {"English": heldout, "code": code[-60_000:]}
table = {(t, r): compression_ratio(read[r], trained[t].encode(read[r])) for t in trained for r in read}
own_is_best = all(table[r, r] > 1.05 * table[t, r] for t in trained for r in read if t != r)
evidence = {f"trained on {t}, reads {r}": ratio for (t, r), ratio in table.items()}
claims.judge("C01.07", confirmed=own_is_best, evidence=evidence)

# %% [markdown]
# **Claim C01.11: a Chinese character becomes three tokens under a tokenizer trained on English, and texts get markedly
# longer.** Our samples all say the same two sentences, so we can compare tokens for the same meaning.

# %%
languages = [name for name in samples if name not in ("Python", "Mathematics", "Emoji")]
num_tokens = {name: len(tokenizer.encode(samples[name])) for name in languages}
relative = {name: num_tokens[name] / num_tokens["English"] for name in languages}
print({name: round(relative[name], 1) for name in sorted(languages, key=relative.get)})
per_character = num_tokens["Chinese"] / len(samples["Chinese"])
evidence = {f"{name} against English": relative[name] for name in ("German", "Chinese", "Hindi")}
evidence |= {"tokens for a Chinese character": per_character, "worst language": max(relative.values())}
claims.judge("C01.11", confirmed=per_character > 2 and relative["Chinese"] > 1.5, evidence=evidence)

# %% [markdown]
# In characters the Chinese text is the shortest of all. Its length in tokens is made by the tokenizer's training text.
#
# **Claim C01.15: a larger vocabulary compresses better, with falling returns, and needs a larger embedding table.** One
# training gives all sizes: the first merges of a large vocabulary are a small vocabulary. Choose what to plot.

# %%
SIZES = [256, 512, 1024, 2048, 4096, 8192] + ([16384] if LARGE else [])
big = BPETokenizer.train([training, code] if LARGE else [training], vocab_size=SIZES[-1])
by_size = [BPETokenizer.from_merges({i: big.vocab[i] for i in range(size)}, big.merges[: size - 256]) for size in SIZES]
names = ("English", "German", "Finnish", "Vietnamese", "Chinese", "Russian", "Hindi")
measured = {name: samples[name] for name in names}
lengths = {name: np.array([len(t.encode(sample)) for t in by_size]) for name, sample in measured.items()}
alike = {}  # languages without a single merge have the same curve and share a line
for name, sample in measured.items():
    alike.setdefault(tuple(len(sample.encode()) / lengths[name]), []).append(name)
views = {"bytes per token": {", ".join(names): curve for curve, names in alike.items()}}
views["tokens for the same two sentences"] = lengths
figures.interactive(
    lambda view, vocabulary: pictures.compression_curves(SIZES, views[view], marked=vocabulary, ylabel=view),
    alt="Compression by language against vocabulary size, for a tokenizer trained on English: English rises from 1 to 3.1 "
    "bytes per token, German to 2.0, Finnish to 1.5, Vietnamese to 1.3; the others stay at 1",
    view=list(views),
    vocabulary=figures.Steps(SIZES, default=4096),
)
print({name: lengths[name].tolist() for name in ("English", "German", "Chinese")})

# %%
ratios = np.array([compression_ratio(heldout, t.encode(heldout)) for t in by_size])
won = 1000 * np.diff(ratios) / np.diff(SIZES)
evidence = {"vocabulary": SIZES, "bytes per token, new English text": ratios.tolist()}
evidence["won by each further 1,000 tokens"] = won.tolist()
evidence["embedding table, MB (width 768, 2 bytes)"] = [size * 768 * 2 / 1e6 for size in SIZES]
claims.judge("C01.15", confirmed=bool((np.diff(ratios) > 0).all() and (np.diff(won) < 0).all()), evidence=evidence)
for name, width, others in (("85 million", 768, 85e6), ("69 billion", 8192, 69e9)):
    shares = {f"{size:,}": f"{size * width / (size * width + others):.1%}" for size in (8_192, 50_257, 128_000)}
    print(f"share of the embedding table beside {name} other numbers, by vocabulary:", shares)

# %% [markdown]
# (Our text is small: near 8,700 tokens it has no pair left. On a web crawl the curve goes on rising, ever more slowly.)
# Set the price against the gain. In GPT-2's smallest model 50,257 tokens of width 768 take 38.6 of 124 million numbers. A
# model of 70 billion does not notice its table. That is why vocabularies grow with models (arXiv:2407.13623).
#
# ## 13. Numbers
#
# GPT-2 cuts `1234567` into whatever tokens its training text happened to favour. Newer models split numbers into single
# digits or groups of three. Is that needed?
#
# **Claim C01.12: single digits are needed for arithmetic that generalises.** We teach small networks to add two numbers
# below 70. One kind reads and writes digits; the other has a token for every whole number. Each is then asked three
# new things: new *pairs* of known numbers, sums with *numbers* that it never saw, and *longer* numbers of three digits.


# %%
def digits(numbers, places):
    return torch.stack([numbers // 10**place % 10 for place in reversed(range(places))], dim=-1)


def as_tokens(a, b, kind):
    """Ids of question and answer. Whole numbers have the ids 0..138; all above share one that is never trained."""
    if kind == "digits":
        return torch.cat([digits(a, 3), digits(b, 3)], -1), digits(a + b, 4)
    return torch.stack([a, b], -1).clamp(max=139), (a + b)[..., None].clamp(max=139)


def new_questions(generator):
    """For each kind of question its two columns of numbers. Ten of the numbers below 70 are held out."""
    held = torch.randperm(70, generator=generator)[:10]
    a, b = torch.cartesian_prod(torch.arange(70), torch.arange(70)).T
    unseen = torch.isin(a, held) | torch.isin(b, held)
    known = torch.nonzero(~unseen)[:, 0]
    known = known[torch.randperm(len(known), generator=generator)]
    rows = {"trained": known[:2500], "pairs": known[2500:], "numbers": torch.nonzero(unseen)[:, 0]}
    longer = tuple(torch.randint(100, 1000, (2, 1000), generator=generator))
    return {name: (a[i], b[i]) for name, i in rows.items()} | {"longer": longer}


# %% [markdown]
# The network looks up a vector for each token, puts the vectors side by side and passes them through one hidden layer.
# Three networks, with different seeds and different held-out numbers, are trained at once. Predict the nine cells of the
# table, three trainings by three kinds of new question: high, middling or zero? "Small steps" and "large steps" are
# learning rates of 0.01 and 0.08 for the same network.


# %%
def train_adders(kind, num_steps, learning_rate, width=16, hidden=96, batch=128, seeds=3):
    """Accuracy on each kind of question, one number a seed."""
    generator = torch.Generator().manual_seed(7)
    questions = [new_questions(generator) for _ in range(seeds)]
    pairs = [as_tokens(*q["trained"], kind) for q in questions]
    x, y = (torch.stack(side) for side in zip(*pairs))
    size, slots, answers = 10 if kind == "digits" else 140, x.shape[-1], y.shape[-1]
    scales = {(size, width): 0.5, (slots * width, hidden): (slots * width) ** -0.5}
    scales[hidden, answers * size] = hidden**-0.5
    weights = [scale * torch.randn(seeds, *shape, generator=generator) for shape, scale in scales.items()]
    table, inner, outer = (weight.requires_grad_() for weight in weights)
    own = size * torch.arange(seeds)[:, None, None]  # where each network's own vectors begin in the table

    def forward(tokens):
        vectors = torch.nn.functional.embedding(tokens + own, table.flatten(0, 1)).flatten(2)
        return (torch.relu(vectors @ inner) @ outer).unflatten(-1, (answers, size))

    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, num_steps)
    for _ in range(num_steps):
        rows = torch.randint(x.shape[1], (batch,), generator=generator)
        loss = seeds * torch.nn.functional.cross_entropy(forward(x[:, rows]).flatten(0, 2), y[:, rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def accuracy(name, seed):
        a, b = questions[seed][name]
        tokens, right = (t.expand(seeds, -1, -1) for t in as_tokens(a, b, kind))
        said_right = (forward(tokens).argmax(-1) == right).all(-1)[seed]
        return (said_right & ((kind == "digits") | (a + b < 139))).double().mean().item()

    with torch.no_grad():
        return {name: [accuracy(name, seed) for seed in range(seeds)] for name in questions[0]}


# %%
more = 3 if LARGE else 1
added = {
    "single digits": train_adders("digits", num_steps=500 * more, learning_rate=0.04),
    "whole numbers, small steps": train_adders("whole", num_steps=1000 * more, learning_rate=0.01),
    "whole numbers, large steps": train_adders("whole", num_steps=1000 * more, learning_rate=0.08),
}
median = {name: {q: round(float(np.median(a)), 1) for q, a in result.items()} for name, result in added.items()}
for name, accuracies in median.items():
    print(f"{name:27s}", accuracies)
whole = [added["whole numbers, small steps"], added["whole numbers, large steps"]]
claims.judge(
    "C01.12",
    confirmed=min(added["single digits"]["numbers"]) > 0.5 and max(max(a["numbers"]) for a in whole) < 0.2,
    refuted=median["whole numbers, large steps"]["pairs"] > 0.5,
    evidence={f"{name}: new pairs, new numbers, longer": list(m.values())[1:] for name, m in median.items()},
    on="what is new: unseen numbers need digits; unseen pairs of known numbers do not, when training finds a rule instead "
    "of a list; longer numbers defeat both",
)

# %% [markdown]
# Read the table by its reasons. A whole number that was never trained has a random vector: nothing is known about it.
# Digits are all trained. With whole numbers both trainings know their 2,500 pairs by heart, but only the one with large
# steps also answers new pairs: how a model is trained can matter as much as how its numbers are cut. Longer numbers fail
# even with digits, because in training the place of the hundreds was always 0. Splitting helps; it is not the whole story.
#
# ## What we found

# %%
for number in range(1, 16):
    claim = claims.recorded()[f"C01.{number:02d}"]
    print(f"{claim.id}  {claim.verdict:10s} {claim.text[:96]}")

# %% [markdown]
# ## Check yourself
#
# <details><summary>1. Why can a decoder that starts in the middle of a UTF-8 text find the next character?</summary>
# Continuation bytes begin with 10, first bytes never do. It skips at most three bytes.</details>
# <details><summary>2. Why is C0 AF refused, although its bits say "/"?</summary>
# It is overlong: "/" fits in one byte. If both forms were legal, a filter that looks for "/" could be passed.</details>
# <details><summary>3. Words aaab (5 times) and aab (twice): which pair is merged first, and what are the words then?</summary>
# (a, a) counts 2 times 5 plus 2 = 12, (a, b) counts 7. Then aa a b and aa b: from the left, without overlap.</details>
# <details><summary>4. (AB, A) and (A, BB) are equally frequent. Which is merged?</summary>
# (AB, A): tuples compare their first tokens, and AB is greater than A. Joined, ABB would beat ABA.</details>
# <details><summary>5. The compression ratio of a tokenizer on your text is 1.0. What does that say?</summary>
# No merge ever applied: every byte is a token. It was trained on other text, most likely in another script.</details>
# <details><summary>6. A model writes x2 where its training text had x². What do you suspect?</summary>
# A tokenizer that normalises with NFKC: the text cannot be given back, and mathematics changes its meaning.</details>
#
# ## Further reading
# - Neural Machine Translation of Rare Words with Subword Units (BPE), arXiv:1508.07909
# - Language Models are Unsupervised Multitask Learners (GPT-2, byte-level BPE), Radford et al. 2019
# - Subword Regularization (Unigram), arXiv:1804.10959; SentencePiece, arXiv:1808.06226
# - BERT (WordPiece), arXiv:1810.04805; Fast WordPiece Tokenization, arXiv:2012.15524
# - Language Model Tokenizers Introduce Unfairness Between Languages, arXiv:2305.15425
# - Tokenization counts: the impact of tokenization on arithmetic in frontier LLMs, arXiv:2402.14903
# - Scaling Laws with Vocabulary: Larger Models Deserve Larger Vocabularies, arXiv:2407.13623
# - RFC 3629 (UTF-8); the Unicode Standard, annexes 15 (normal forms) and 29 (grapheme clusters)
#
# Next: the assignment. You write all of this yourself, and are told within a second when it is wrong.
