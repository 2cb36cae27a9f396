"""`CachedDecoder`: a prompt and then one token at a time through any `Transformer` and its cache."""

# Shapes: B batch, T prompt tokens, V vocabulary, E width.
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmcore.generate.lean import LeanDecoder, why_not
from llmcore.model import Transformer

# Below this many steps, fusing the weights costs more than it saves.
FEWEST_LEAN_STEPS = 4


@runtime_checkable
class Decoder(Protocol):
    """What the searches need: read the prompt, take a step, reorder rows."""

    def read(self, ids: Int[Tensor, "B T"], real: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B V"]: ...

    def step(self, ids: Int[Tensor, "B"]) -> Float[Tensor, "B V"]: ...

    def reorder(self, rows: Int[Tensor, "n"]) -> None: ...


class CachedDecoder:
    """Decodes with the model's own forward; static cache with max_tokens, growing without.

    >>> from llmcore.model import ModelConfig
    >>> model = Transformer(ModelConfig(vocab_size=7, width=8, n_layers=1, n_heads=2)).eval()
    >>> CachedDecoder(model).read(torch.tensor([[1, 2]])).shape
    torch.Size([1, 7])
    """

    def __init__(self, model: Transformer, max_tokens: int | None = None) -> None:
        self.model = model
        self.cache = model.make_cache(max_tokens)

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, "B T"], real: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B V"]:
        """Logits after the prompt; `real` is False at padding, on the left."""
        doc_ids = None if real is None else real.long() - 1
        hidden = self.model.hidden(ids, doc_ids=doc_ids, cache=self.cache)
        return self.model.logits(hidden[:, -1])

    @torch.inference_mode()
    def step(self, ids: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Logits after one more token in every row."""
        return self.model(ids[:, None], cache=self.cache)[:, -1]

    def reorder(self, rows: Int[Tensor, "n"]) -> None:
        """Make row i what row `rows[i]` was; rows may repeat, or be more or fewer than before."""
        with torch.inference_mode():
            self.cache.reorder(rows)


def make_decoder(model: Transformer, max_tokens: int | None, n_steps: int) -> Decoder:
    """The faster decoder for this model and that many steps."""
    if n_steps >= FEWEST_LEAN_STEPS and why_not(model) is None:
        return LeanDecoder(model, max_tokens)
    return CachedDecoder(model, max_tokens)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside, the model's mode restored after."""
    if not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def check_room(model: Transformer, prompt_tokens: int, max_new_tokens: int) -> None:
    """Refuse what learned positions cannot hold, before any work is done.

    Raises: ValueError for max_new_tokens below 0 and for a text that would outgrow learned positions.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    config = model.config
    if config.position == "learned" and prompt_tokens + max_new_tokens > config.context:
        raise ValueError(
            f"prompt and continuation must fit the model's {config.context} learned positions, got "
            f"{prompt_tokens} + {max_new_tokens} tokens; shorten the prompt or ask for fewer"
        )
