"""BPE training: wall time and peak memory of `BPETokenizer.train`, rustbpe and tokenizers on the same text in memory.

Every run is a process of its own, the contenders take turns, and medians are compared. Libraries are imported and our compiled code
is loaded from its cache before the clock starts. The GPT-2 pattern, no special tokens, all processors for those who use them.

    python benchmarks/bpe_training.py [--megabytes 5 30 100] [--vocabulary 32768] [--rounds 5] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import corpus
from _report import finish

from llmcore.tokenizer import GPT2_PATTERN, BPETokenizer


def train_ours(text: str, vocab_size: int) -> int:
    return len(BPETokenizer.train([text], vocab_size, engine="compiled"))


def train_rustbpe(text: str, vocab_size: int) -> int:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(text.splitlines(keepends=True)), vocab_size, pattern=GPT2_PATTERN)
    return len(tokenizer.get_mergeable_ranks())


def train_tokenizers(text: str, vocab_size: int) -> int:
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(iter(text.splitlines(keepends=True)), trainer)
    return tokenizer.get_vocab_size()


CONTENDERS = {"llmcore": train_ours, "rustbpe": train_rustbpe, "tokenizers": train_tokenizers}


def run_one(name: str, path: Path, vocab_size: int) -> None:
    """Train once and print seconds, peak bytes of the process, and tokens made."""
    if name == "llmcore":
        from llmcore.tokenizer import _merge, _scan, _words  # noqa: F401
    else:
        importlib.import_module(name)
    text = path.read_text(encoding="utf-8")
    start = time.perf_counter()
    tokens = CONTENDERS[name](text, vocab_size)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes(), "tokens": tokens}))


def peak_bytes() -> int:
    """The most memory that this process has held; Linux counts a parent's in `ru_maxrss`, so it is read elsewhere there."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compare(names: list[str], path: Path, vocab_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of seconds and peak bytes of each contender."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "--run", name, str(path), str(vocab_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    return {name: {key: statistics.median(run[key] for run in done) for key in done[0]} for name, done in runs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the training of byte-level BPE.")
    parser.add_argument("--megabytes", type=float, nargs="+", default=[5, 30, 100])
    parser.add_argument("--vocabulary", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="*", default=["rustbpe", "tokenizers"])
    parser.add_argument("--quick", action="store_true", help="1 MB, 4096 tokens, 1 round")
    parser.add_argument("--run", nargs=3, metavar=("NAME", "PATH", "VOCABULARY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_one(options.run[0], Path(options.run[1]), int(options.run[2]))
        return
    if options.quick:
        options.megabytes, options.vocabulary, options.rounds = [1], 4096, 1
    peers = [name for name in options.peers if importlib.util.find_spec(name)]
    for name in set(options.peers) - set(peers):
        print(f"{name} is not installed: pip install {name}")
    BPETokenizer.train(["compile once"], 260, engine="compiled")
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in options.megabytes:
            text = corpus.load(megabytes)
            print(text.describe())
            path = Path(folder) / "corpus.txt"
            path.write_text(text.text, encoding="utf-8", newline="")
            results = compare(["llmcore", *peers], path, options.vocabulary, options.rounds)
            finish("bpe_training", rows(results, peers, megabytes), vocabulary=options.vocabulary, sha256=text.sha256)


def rows(results: dict[str, dict[str, float]], peers: list[str], megabytes: float) -> list[dict]:
    """One row of time and one of memory against each peer."""
    ours, found = results["llmcore"], []
    for peer in peers or [None]:
        theirs = results.get(peer)
        named = {"peer_name": f"{peer} {version(peer)}" if peer else None}
        for key, unit, scale in (("seconds", "s", 1.0), ("peak_bytes", "GB", 1e-9)):
            figure, other = ours[key] * scale, theirs[key] * scale if theirs else None
            ratio = figure / other if other else None
            row = {"name": f"BPE training {megabytes:g} MB, {key} against {peer}", "figure": figure, "unit": unit}
            target = {"target": "<= 0.5 x"} if (peer, key) == ("rustbpe", "seconds") else {}
            found.append(row | {"peer": other, "ratio": ratio} | named | target)
    return found


if __name__ == "__main__":
    main()
