"""Greedy decoding with a KV cache on one CPU thread: llmcore.generate against transformers generate, the same weights.

A Llama of 0.8M parameters (width 128, feed-forward 344, 4 layers, 4 heads), a prompt of 16 tokens, 64 new ones. Both run
in this process by turns; figures are medians. The tokens must be the same, or the row is refused. A second row times
llmcore's ordinary decoder, the one that serves every architecture.

    python benchmarks/decoding.py [--quick] [--rounds 9]

Needs transformers (the bench extra). Prints the rows and, last, one JSON line, which is also appended to
benchmarks/results/decoding.jsonl. Leaves out on purpose: long prompts and batches, where arithmetic decides.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from llmcore.generate import CachedDecoder, generate  # noqa: E402
from llmcore.model import PRESETS, Transformer, save_pretrained  # noqa: E402

PROMPT_TOKENS, NEW_TOKENS = 16, 64
TARGET, STRETCH = 1.5, 2.5


def load_peer(model: Transformer) -> object:
    """The same weights in transformers.

    Raises: SystemExit with one sentence when transformers is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise SystemExit(
            "this benchmark compares with transformers; install the bench extra: pip install -e .[bench]"
        ) from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def ordinary(model: Transformer, ids: Tensor, new_tokens: int) -> Tensor:
    """Greedy decoding with the decoder that serves every architecture."""
    decoder = CachedDecoder(model, ids.shape[1] + new_tokens)
    tokens = [decoder.read(ids).argmax(dim=-1)]
    for _ in range(new_tokens - 1):
        tokens.append(decoder.step(tokens[-1]).argmax(dim=-1))
    return torch.cat((ids, torch.stack(tokens, dim=1)), dim=1)


def measure(runs: dict[str, Callable[[], Tensor]], rounds: int, new_tokens: int) -> dict[str, float]:
    """Median tokens per second of each, run by turns after one warm-up.

    Raises: SystemExit when they disagree on a token.
    """
    texts = {name: run() for name, run in runs.items()}
    first, *others = texts.values()
    if not all(torch.equal(first, other) for other in others):
        raise SystemExit("the decoders disagree on a token: figures of different texts are not compared")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: new_tokens / statistics.median(times) for name, times in seconds.items()}


def machine() -> dict[str, object]:
    """What the figures depend on."""
    import transformers

    commit = subprocess.run(["git", "rev-parse", "--verify", "-q", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "cpu": next(
            (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.processor()
        ),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit.stdout.strip() or None,
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens, for CI")
    parser.add_argument("--rounds", type=int, help="timed runs of each (default 9, quick 5)")
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 9)
    new_tokens = 16 if options.quick else NEW_TOKENS
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    model = Transformer(PRESETS["llama-0.8m"], torch.Generator().manual_seed(0)).eval()
    peer = load_peer(model)
    ids = torch.randint(0, model.config.vocab_size, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))
    figures = measure(
        {
            "transformers generate": lambda: peer.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
            ),
            "llmcore.generate": lambda: generate(model, ids, new_tokens, temperature=0.0),
            "llmcore ordinary decoder": lambda: ordinary(model, ids, new_tokens),
        },
        rounds,
        new_tokens,
    )
    base = figures["transformers generate"]
    for name, rate in figures.items():
        print(f"{name:26} {rate:8.0f} tokens/s   {rate / base:5.2f} x")
    row = {
        "benchmark": "greedy decoding, 0.8M Llama, batch 1",
        "figure": round(figures["llmcore.generate"], 1),
        "peer": round(base, 1),
        "ratio": round(figures["llmcore.generate"] / base, 3),
        "ordinary_ratio": round(figures["llmcore ordinary decoder"] / base, 3),
        "unit": "tokens/s",
        "target": TARGET,
        "stretch": STRETCH,
        "rounds": rounds,
        "quick": options.quick,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **machine(),
    }
    results = ROOT / "benchmarks" / "results"
    results.mkdir(exist_ok=True)
    with (results / "decoding.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row))


if __name__ == "__main__":
    main()
