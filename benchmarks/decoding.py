"""Greedy decoding with a KV cache on one CPU thread: llmcore.generate against transformers generate, the same weights.

A Llama of 0.8M parameters (width 128, feed-forward 344, 4 layers, 4 heads), a prompt of 16 tokens, 64 new ones. Both run
in this process by turns; figures are medians. The tokens must be the same, or nothing is reported. A second row times
llmcore's ordinary decoder, the one that serves every architecture.

    python benchmarks/decoding.py [--quick] [--rounds 9]

Needs transformers (the bench extra). Left out on purpose: long prompts and batches, where arithmetic decides.
"""

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _report import finish, medians
from torch import Tensor

from llmcore.generate import CachedDecoder, generate
from llmcore.model import PRESETS, Transformer, save_pretrained

PROMPT_TOKENS, NEW_TOKENS = 16, 64
TARGET, STRETCH = 1.5, 2.5


def load_peer(model: Transformer) -> tuple[Callable[[Tensor, int], Tensor], str]:
    """Greedy decoding by transformers with the same weights, and its version.

    Raises: SystemExit with one sentence when transformers is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError:
        raise SystemExit("this compares with transformers, which is not installed: pip install -e .[bench]") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder)
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()

    def run(ids: Tensor, new_tokens: int) -> Tensor:
        seen = torch.ones_like(ids)
        return peer.generate(ids, attention_mask=seen, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0)

    return run, transformers.__version__


def ordinary(model: Transformer, ids: Tensor, new_tokens: int) -> Tensor:
    """Greedy decoding with the decoder that serves every architecture."""
    decoder = CachedDecoder(model, ids.shape[1] + new_tokens)
    tokens = [decoder.read(ids).argmax(dim=-1)]
    for _ in range(new_tokens - 1):
        tokens.append(decoder.step(tokens[-1]).argmax(dim=-1))
    return torch.cat((ids, torch.stack(tokens, dim=1)), dim=1)


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
    peer, version = load_peer(model)
    ids = torch.randint(0, model.config.vocab_size, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(1))
    runs = {
        "transformers generate": lambda: peer(ids, new_tokens),
        "llmcore.generate": lambda: generate(model, ids, new_tokens, temperature=0.0),
        "llmcore, ordinary decoder": lambda: ordinary(model, ids, new_tokens),
    }
    first, *others = (run() for run in runs.values())
    if not all(torch.equal(first, other) for other in others):
        raise SystemExit("the decoders disagree on a token: speeds of different texts are not compared")
    rates = {name: new_tokens / seconds for name, seconds in medians(runs, rounds).items()}
    base = rates.pop("transformers generate")
    rows = [
        {
            "name": f"greedy decoding, 0.8M Llama, batch 1, {name}",
            "figure": round(rate, 1),
            "unit": "tokens/s",
            "peer": round(base, 1),
            "ratio": round(rate / base, 3),
            "target": TARGET,
            "stretch": STRETCH,
        }
        for name, rate in rates.items()
    ]
    finish("decoding", rows, transformers=version, rounds=rounds, quick=options.quick)


if __name__ == "__main__":
    main()
