"""BPE encoding: MB/s of `BPETokenizer.encode`, tiktoken and tokenizers with the same ranks, on English, code, Chinese and mixed text.

One thread each unless the row says threads; text and lists of ids in memory; the word cache of ours is emptied before every run.

    python benchmarks/bpe_encoding.py [--megabytes 5] [--vocabulary 32768] [--rounds 7] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from _report import finish, medians

from llmcore.tokenizer import BPETokenizer

TEXTS = {"English": {"english": 1.0}, "code": {"code": 1.0}, "Chinese": {"chinese": 1.0}, "mixed": None}
TARGETS = {"English": ">= 1.5 x", "Chinese": ">= 1.0 x"}


def tiktoken_of(ours: BPETokenizer, folder: Path) -> Callable[[str], list[int]]:
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    ours.to_tiktoken(folder / "ranks.tiktoken")
    ranks = load_tiktoken_bpe(str(folder / "ranks.tiktoken"))
    return tiktoken.Encoding("ours", pat_str=ours.pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary


def tokenizers_of(ours: BPETokenizer, folder: Path) -> Callable[[str], list[int]]:
    import tokenizers

    ours.to_tokenizer_json(folder / "tokenizer.json")
    peer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return lambda text: [index for line in text.splitlines(keepends=True) for index in peer.encode(line).ids]


PEERS = {"tiktoken": tiktoken_of, "tokenizers": tokenizers_of}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the encoding of byte-level BPE.")
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", nargs="*", default=["tiktoken"], choices=[*PEERS])
    parser.add_argument("--quick", action="store_true", help="0.5 MB, 4096 tokens, 1 round")
    options = parser.parse_args()
    if options.quick:
        options.megabytes, options.vocabulary, options.rounds = 0.5, 4096, 1
    training = corpus.load(2 if options.quick else 30)
    ours = BPETokenizer.train([training.text], options.vocabulary, engine="compiled")
    ours.engine = "compiled"
    ours.encode("load the compiled code")

    def encode_with_empty_cache(text: str) -> list[int]:
        ours.empty_cache()
        return ours.encode(text)

    with tempfile.TemporaryDirectory() as folder:
        found = [name for name in options.peers if importlib.util.find_spec(name)]
        peers = {name: PEERS[name](ours, Path(folder)) for name in found}
        for name, shares in TEXTS.items():
            try:
                text = corpus.load(options.megabytes, shares)
            except ValueError as error:
                print(f"{name}: {error}")
                continue
            print(text.describe())
            report(name, text, {"llmcore": encode_with_empty_cache, **peers}, ours, options)


def report(
    name: str, text: corpus.Corpus, contenders: dict[str, Callable], ours: BPETokenizer, options: argparse.Namespace
) -> None:
    """Time all contenders on one text and write a row for each peer."""
    megabytes = len(text.text.encode("utf-8")) / 1e6
    expected = contenders["llmcore"](text.text)
    if "tiktoken" in contenders and contenders["tiktoken"](text.text) != expected:
        raise ValueError(f"tiktoken gives other ids on the {name} text; there is nothing to compare")
    documents = text.text.splitlines(keepends=True)
    runs: dict[str, Callable] = {peer: (lambda encode=encode: encode(text.text)) for peer, encode in contenders.items()}
    runs["llmcore, threads"] = lambda: ours.encode_batch(documents)
    seconds = medians(runs, options.rounds)
    rows = []
    for peer in [other for other in contenders if other != "llmcore"] or [None]:
        row = {"name": f"BPE encoding, {name}, 1 thread", "figure": megabytes / seconds["llmcore"], "unit": "MB/s"}
        row |= {"peer": None, "ratio": None, "peer_name": None, "bytes_per_token": megabytes * 1e6 / len(expected)}
        if peer:
            row |= {"peer": megabytes / seconds[peer], "ratio": seconds[peer] / seconds["llmcore"]}
            row |= {"peer_name": f"{peer} {version(peer)}"}
        rows.append(row | ({"target": TARGETS[name]} if name in TARGETS and peer == "tiktoken" else {}))
    threads = megabytes / seconds["llmcore, threads"]
    rows.append({"name": f"BPE encoding, {name}, batch of lines, threads", "figure": threads, "unit": "MB/s"})
    finish("bpe_encoding", rows, vocabulary=options.vocabulary, sha256=text.sha256)


if __name__ == "__main__":
    main()
