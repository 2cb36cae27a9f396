"""Between steps: the loss on held-out rows, and a sample of text."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from llmcore.data.batches import Batch
from llmcore.model.transformer import Transformer
from llmcore.train.config import TrainConfig
from llmcore.train.loss import IGNORED
from llmcore.train.parallel import Place


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) and no gradients; training mode again afterwards."""
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train()


def evaluation_loss(
    objective: nn.Module, source: Any, n_rows: int, micro_batch: int, place: Place, load: Callable[[Batch], Batch]
) -> float:
    """Mean cross-entropy in nats per token over n_rows rows, spread evenly over the source; the same on every process.

    `load` brings a batch to the device.
    """
    chosen = np.linspace(0, source.n_rows - 1, n_rows).astype(np.int64)
    sums = torch.zeros(2, dtype=torch.float64, device=place.device)
    with evaluating(objective):
        for first in range(0, len(chosen), micro_batch * place.world):
            start = first + place.rank * micro_batch
            rows = chosen[start : start + micro_batch]
            batch = load(source.batch(0, rows if len(rows) else chosen[:1]))
            _, cross_entropy = objective(batch)
            if len(rows):  # a process without rows left runs along, as FSDP needs, and counts nothing
                sums[0] += cross_entropy
                sums[1] += (batch.targets != IGNORED).sum()
    total, count = place.sum(sums).tolist()
    return total / max(1.0, count)


def sample_text(model: Transformer, tokenizer: Any, config: TrainConfig, step: int) -> str:
    """Text that the model writes after the config's prompt; the same for the same seed and step."""
    from llmcore.generate import generate

    generator = torch.Generator(model.device).manual_seed(config.seed * 1_000_003 + step)
    prompt = torch.tensor(tokenizer.encode(config.sample_prompt) or [0], device=model.device)
    room = min(config.sample_tokens, max(1, model.config.context - len(prompt)))
    with evaluating(model):
        ids = generate(model, prompt, room, temperature=config.sample_temperature, generator=generator)
    return tokenizer.decode(ids.tolist())
