"""The same ids as tokenizers and tiktoken, and their files read and written.

Characters are drawn from those that were assigned when the oldest Unicode tables among the peers were made: what a code point that
nobody had assigned is, a letter or a sign, is the one thing on which they may differ.
"""

import random
import unicodedata

import pytest

from llmcore.text import python_documentation, same_text, standard_library_sources
from llmcore.tokenizer import GPT2_PATTERN, PATTERNS, BPETokenizer

pytestmark = pytest.mark.interop

END = "<|endoftext|>"
MIXED = END.join([*same_text().values(), python_documentation()[:60_000], standard_library_sources(40_000)])


def random_strings(count: int, seed: int, last: int = 0x10FFFF) -> list[str]:
    rng = random.Random(seed)
    planes = [range(0x20, 0x7F), range(0xA0, 0x250), range(0x300, 0x2000), range(0x2000, 0x3100), range(0x4E00, 0x9FFF)]
    planes += [range(0xAC00, 0xD7A4), range(0x1F300, 0x1F650), range(0x10000, 0x11000)]
    assigned = [
        [chr(n) for n in plane if unicodedata.category(chr(n)) != "Cn"] for plane in planes if plane.stop <= last
    ]
    common = list("'stdmlrveSTLR \n\r\t019./-_") + ["'re", "'LL", "  ", "\n\n", END]
    return [
        "".join(rng.choice(common if rng.random() < 0.5 else rng.choice(assigned)) for _ in range(rng.randint(1, 24)))
        for _ in range(count)
    ]


NUM_STRINGS = {"gpt2": 10_000, "cl100k": 3000, "o200k": 3000}


@pytest.fixture(scope="module", params=NUM_STRINGS)
def trained(request):
    return BPETokenizer.train([MIXED], 1500, [END, "<|pad|>"], request.param), NUM_STRINGS[request.param]


def first_difference(texts, ours, theirs):
    return next(((text, a, b) for text, a, b in zip(texts, ours, theirs, strict=True) if a != b), None)


def test_tiktoken_gives_the_same_ids(trained, tmp_path):
    tokenizer, num_strings = trained
    tiktoken = pytest.importorskip("tiktoken", reason="the peer of this test")
    from tiktoken.load import load_tiktoken_bpe

    tokenizer.to_tiktoken(tmp_path / "ranks.tiktoken")
    peer = tiktoken.Encoding(
        "ours",
        pat_str=tokenizer.pattern,
        mergeable_ranks=load_tiktoken_bpe(str(tmp_path / "ranks.tiktoken")),
        special_tokens=tokenizer.special_tokens,
    )
    texts = [MIXED, *random_strings(num_strings, 1)]
    ours = [tokenizer.encode(text) for text in texts]
    assert first_difference(texts, ours, peer.encode_batch(texts, allowed_special="all", num_threads=1)) is None
    assert [tokenizer.decode(ids) for ids in ours] == texts


def test_tokenizers_gives_the_same_ids(trained, tmp_path):
    tokenizer, num_strings = trained
    tokenizers = pytest.importorskip("tokenizers", reason="the peer of this test")
    path = str(tmp_path / "tokenizer.json")
    tokenizer.to_tokenizer_json(path)
    peer = tokenizers.Tokenizer.from_file(path)
    texts = [MIXED, *random_strings(num_strings, 2)]
    ours = [tokenizer.encode(text) for text in texts]
    theirs = [encoding.ids for encoding in peer.encode_batch(texts, add_special_tokens=False)]
    assert first_difference(texts, ours, theirs) is None
    assert peer.decode(ours[1], skip_special_tokens=False) == tokenizer.decode(ours[1])
    peer.save(path)
    again = BPETokenizer.from_tokenizer_json(path)
    assert [again.encode(text) for text in texts[:500]] == ours[:500]


@pytest.mark.parametrize("pre_tokenizer", ["ByteLevel", "Split", "Digits"])
@pytest.mark.parametrize("normalizer", [None, "NFC", "NFKC"])
def test_a_tokenizer_trained_by_tokenizers_is_read(tmp_path, pre_tokenizer, normalizer):
    tokenizers = pytest.importorskip("tokenizers", reason="the peer of this test")
    from tokenizers import models, normalizers, pre_tokenizers, trainers

    peer = tokenizers.Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre_tokenizer == "ByteLevel")
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERNS["qwen2"]), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=True)
    before = {"ByteLevel": [], "Split": [split], "Digits": [digits, split]}[pre_tokenizer]
    peer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level])
    if normalizer:
        peer.normalizer = getattr(normalizers, normalizer)()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    peer.train_from_iterator([MIXED], trainer)
    peer.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.from_tokenizer_json(tmp_path / "tokenizer.json")
    texts = [MIXED[:20_000], *random_strings(1000, 3, last=0xFFFF), "e\u0301ﬁ ½ 12"]
    theirs = [encoding.ids for encoding in peer.encode_batch(texts, add_special_tokens=False)]
    assert first_difference(texts, [ours.encode(text) for text in texts], theirs) is None


def test_transformers_loads_what_is_written(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the peer of this test")
    ours = BPETokenizer.train([MIXED], 600, [END])
    ours.to_tokenizer_json(tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs(MIXED[:3000]).input_ids == ours.encode(MIXED[:3000])


@pytest.mark.slow
def test_training_equals_rustbpe_up_to_ties():
    rustbpe = pytest.importorskip("rustbpe", reason="the peer of this test")
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter([MIXED.replace(END, "\n")]), 256 + 100, pattern=GPT2_PATTERN)
    ours = BPETokenizer.train([MIXED.replace(END, "\n")], 256 + 100)
    theirs = {bytes(token) for token, rank in peer.get_mergeable_ranks() if rank >= 256}
    assert len(theirs & {left + right for left, right in ours.merges}) >= 97  # equal counts are settled otherwise
