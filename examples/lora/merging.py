"""How much of an adapter survives merging: into float32, bfloat16, int8 and NF4 weights of SmolLM2-135M.

An update is small beside the steps of coarse weights, so rounding takes part of it. Measured are the share of the update that
is lost (|stored - exact| / |update|, median over the layers) and the held-out loss with the adapter beside the weights and merged into them.

    python examples/lora/smollm2.py && python examples/lora/merging.py [--out examples/lora/results]

Needs the adapter that smollm2.py left in runs/lora/smollm2-lora. About a minute. Writes merging.json.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _results import HERE, RESULTS, read_settings, write_results
from smollm2 import find_checkpoint, held_out_loss, read_tokens

from llmcore.data import ShuffledSource
from llmcore.lora import disabled, load_adapter, lora_layers, merge, merging_errors, unmerge
from llmcore.model import Transformer, load_pretrained
from llmcore.quantize import quantize_model

ADAPTER = HERE.parents[1] / "runs" / "lora" / "smollm2-lora"
ROWS = 16


def to_bfloat16(model: Transformer) -> None:
    """Round the weights."""
    model.to(torch.bfloat16)


STORES: dict[str, Callable[[Transformer], object]] = {
    "float32": lambda model: model,
    "bfloat16": to_bfloat16,
    "int8": lambda model: quantize_model(model, method="int8"),
    "nf4": lambda model: quantize_model(model, method="nf4"),
}


def measure(model: Transformer, held_out: ShuffledSource) -> dict[str, float]:
    """Losses without the adapter, with it, and merged; the share of the update that merging loses."""
    load_adapter(model, ADAPTER)
    for layer in lora_layers(model).values():
        layer.adapters.float()
    with disabled(model):
        base = held_out_loss(model, held_out, ROWS)
    adapted = held_out_loss(model, held_out, ROWS)
    errors = merging_errors(model)
    merge(model)
    merged = held_out_loss(model, held_out, ROWS)
    unmerge(model)
    return {
        "lost_share_median": statistics.median(errors.values()),
        "lost_share_largest": max(errors.values()),
        "base_nats": base,
        "adapted_nats": adapted,
        "merged_nats": merged,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    start = time.perf_counter()
    settings = read_settings(HERE / "smollm2.toml")
    checkpoint = find_checkpoint()
    tokens = read_tokens(checkpoint, settings["topic"])
    cut = int(len(tokens) * (1 - settings["held_out"]))
    held_out = ShuffledSource(tokens[cut:], 1, settings["training"]["context"], shuffle=False)
    base = load_pretrained(checkpoint, dtype=torch.float32)
    found = {}
    for name, store in STORES.items():
        model = copy.deepcopy(base)
        store(model)
        found[name] = measure(model, held_out)
        print(f"{name}: " + ", ".join(f"{key} {value:.4f}" for key, value in found[name].items()))
    write_results(options.out / "merging.json", settings, {"rows": ROWS, "stores": found}, time.perf_counter() - start)


if __name__ == "__main__":
    main()
