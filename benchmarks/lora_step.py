"""One training step of LoRA and of QLoRA on one CPU thread against PEFT: same Llama, same adapters, same batch; and what each holds in memory.

A Llama of 8 layers, width 256, 4 rows of 128 tokens; rank 8 on every projection; AdamW on the adapters. A step is forward,
loss, backward and update, in float32. "same Llama": model, loss and optimizer are the same on both sides, transformers' and torch's; only the
adapters differ and, for QLoRA, the layers that hold the 4-bit weights (PEFT's are bitsandbytes'). "whole step": llmcore's side is its own
Transformer and chunked loss. Losses must agree or the row is refused. Memory is the weights and what is live over them at the highest
point of a step, as PyTorch allocates it.

    python benchmarks/lora_step.py [--quick] [--rounds 11]

Left out on purpose: GPUs, mixed precision, torch.compile.
"""

import argparse
import copy
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.nn.functional as F
from _report import finish, medians
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmcore.lora import inject
from llmcore.model import Transformer
from llmcore.quantize import Nf4Linear, quantize_model
from llmcore.train import linear_cross_entropy

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SIZE = {
    "vocab_size": 2048,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
}
QUICK = {**SIZE, "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 384}
RANK, ALPHA = 8, 16
LIMIT = 2e-3


def make_llama(size: dict[str, int]) -> nn.Module:
    """transformers' Llama, the same weights every time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**size, tie_word_embeddings=True, use_cache=False)).train()


def with_llmcore(model: nn.Module, quantized: bool) -> nn.Module:
    """The model with our adapters, over NF4 weights or the float ones."""
    if quantized:
        quantize_model(model, PROJECTIONS)
    inject(model, PROJECTIONS, RANK, ALPHA, generator=torch.Generator().manual_seed(1))
    return model


def with_peft(model: nn.Module, quantized: bool) -> nn.Module:
    """The model with PEFT's adapters, over bitsandbytes' NF4 weights or the float ones."""
    import peft

    if quantized:
        import bitsandbytes as bnb

        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if name in PROJECTIONS:
                    layer = bnb.nn.Linear4bit(
                        child.in_features, child.out_features, bias=False, compute_dtype=torch.float32,
                        compress_statistics=True, quant_type="nf4",
                    )  # fmt: skip
                    layer.weight = bnb.nn.Params4bit(
                        child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
                    )
                    setattr(parent, name, layer.to("cpu"))
        model.is_loaded_in_4bit = True  # PEFT has layers of its own for these
    return peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=PROJECTIONS))


def same_start(ours: nn.Module, theirs: nn.Module) -> None:
    """Give both the same A and B, B away from zero."""
    generator = torch.Generator().manual_seed(2)
    pairs = zip(
        (module for module in ours.modules() if type(module).__name__ == "LoraLinear"),
        (module for module in theirs.modules() if hasattr(module, "lora_A")),
        strict=True,
    )
    for mine, other in pairs:
        mine.lora_b.data.normal_(std=0.02, generator=generator)
        other.lora_A["default"].weight.data.copy_(mine.lora_a.data)
        other.lora_B["default"].weight.data.copy_(mine.lora_b.data)


def make_step(model: nn.Module, ids: torch.Tensor) -> Callable[[], float]:
    """A function that does one step and gives the loss before it."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    targets = ids[:, 1:].contiguous()

    def step() -> float:
        if isinstance(model, Transformer):
            loss = linear_cross_entropy(model.hidden(ids[:, :-1]), model.head_weight, targets)[0] / targets.numel()
        else:
            loss = F.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


class HighWater(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live; `highest` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.highest = 0
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        import weakref

        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known and storage.nbytes():
                    pointer, size = storage.data_ptr(), storage.nbytes()
                    self.known[pointer] = weakref.finalize(storage, self._gone, pointer, size)
                    self.live += size
                    self.highest = max(self.highest, self.live)
        return result

    def _gone(self, pointer: int, size: int) -> None:
        if self.known.pop(pointer, None) is not None:
            self.live -= size


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, quantization state included, each storage once."""
    tensors = [*model.parameters(), *model.buffers()]
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, *([state.state2.absmax] if state.nested else [])]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def peak_bytes(model: nn.Module, step: Callable[[], float]) -> int:
    """Weights, and the most that a step holds besides."""
    step()
    with HighWater() as water:
        step()
    return weight_bytes(model) + water.highest


def compare(name: str, ours: nn.Module, theirs: nn.Module, ids: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """Rows for speed and memory, refused when the losses differ."""
    steps = {"llmcore": make_step(ours, ids), "peer": make_step(theirs, ids)}
    losses = {who: step() for who, step in steps.items()}
    gap = abs(losses["llmcore"] - losses["peer"])
    if gap > LIMIT:
        raise SystemExit(f"{name}: losses differ by {gap:.1e}, more than {LIMIT}: such figures are not compared")
    seconds = medians(steps, rounds)
    peaks = {"llmcore": peak_bytes(ours, steps["llmcore"]), "peer": peak_bytes(theirs, steps["peer"])}
    extra = {"losses_differ_by": gap}
    return [
        {"name": f"{name}, time of a step, 1 thread", "figure": round(seconds["llmcore"] * 1e3, 1),
         "peer": round(seconds["peer"] * 1e3, 1), "ratio": round(seconds["llmcore"] / seconds["peer"], 3), "unit": "ms", **extra},
        {"name": f"{name}, peak memory of a step", "figure": round(peaks["llmcore"] / 2**20, 1),
         "peer": round(peaks["peer"] / 2**20, 1), "ratio": round(peaks["llmcore"] / peaks["peer"], 3), "unit": "MiB", **extra},
    ]  # fmt: skip


def our_transformer(llama: nn.Module) -> nn.Module:
    """llmcore's Transformer with the same weights."""
    import tempfile

    from llmcore.model import load_pretrained

    with tempfile.TemporaryDirectory() as folder:
        llama.save_pretrained(folder)
        return load_pretrained(folder).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few rounds, for CI")
    parser.add_argument("--rounds", type=int, help="timed steps of each (default 11, quick 5)")
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 11)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    try:
        import peft
        import transformers
    except ModuleNotFoundError as error:
        raise SystemExit(f"the peer needs {error.name}: pip install transformers peft") from None
    versions = {"peft": peft.__version__, "transformers": transformers.__version__}
    transformers.utils.logging.disable_progress_bar()
    size = QUICK if options.quick else SIZE
    llama = make_llama(size)
    ids = torch.randint(0, size["vocab_size"], (4, 129), generator=torch.Generator().manual_seed(0))
    rows = []
    for quantized in (False, True):
        kind = "QLoRA" if quantized else "LoRA"
        if quantized:
            try:
                import bitsandbytes

                versions["bitsandbytes"] = bitsandbytes.__version__
            except ModuleNotFoundError:
                print("QLoRA is not compared: bitsandbytes is not installed")
                continue
        theirs = with_peft(copy.deepcopy(llama), quantized)
        for where, make in (("same Llama", copy.deepcopy), ("whole step", our_transformer)):
            ours = with_llmcore(make(llama), quantized)
            same_start(ours, theirs)
            rows += compare(f"{kind}, {where}", ours, theirs, ids, rounds)
            if quantized:
                rows[-1]["packed_bytes"] = sum(m.weight_bytes for m in ours.modules() if isinstance(m, Nf4Linear))
    finish("lora_step", rows, rounds=rounds, quick=options.quick, peer_is="peft", **versions)


if __name__ == "__main__":
    main()
