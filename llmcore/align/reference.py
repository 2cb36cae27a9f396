"""`Reference`: the frozen model that the trained one is compared with.

Taught in: 07_dpo_grpo.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.align.logprobs import response_logprobs
from llmcore.align.sequences import Sequences
from llmcore.lora import disabled, lora_layers
from llmcore.model.transformer import Transformer


class Reference:
    """A model given by the caller; else the trained model's own base, when it has adapters; else a frozen copy made here.

    A copy is made of the model as it is: before training, and before a checkpoint is loaded.

    Raises: ValueError for a reference that is the model itself, lies on another device, or has another vocabulary.
    """

    def __init__(self, model: Transformer, given: Transformer | None = None) -> None:
        self.policy, self.given = model, given
        if given is not None:
            check_reference(model, given)
            given.eval()
        self.uses_adapters = given is None and bool(lora_layers(model))
        if given is None and not self.uses_adapters:
            self.given = copy.deepcopy(model).eval().requires_grad_(False)

    @contextlib.contextmanager
    def model(self) -> Iterator[Transformer]:
        """The reference in evaluation mode, without gradients; with adapters, the trained model while they are off."""
        with torch.no_grad():
            if not self.uses_adapters:
                yield self.given
                return
            was_training = self.policy.training
            self.policy.eval()
            try:
                with disabled(self.policy):
                    yield self.policy
            finally:
                self.policy.train(was_training)

    def logprobs(self, rows: Sequences, temperature: float = 1.0) -> Float[Tensor, "B N"]:
        """The reference's log-probabilities of the responses' tokens."""
        with self.model() as reference:
            return response_logprobs(reference, rows, temperature)[0]


def check_reference(model: nn.Module, reference: nn.Module) -> None:
    """Refuse a reference that cannot be compared with the model.

    Raises: ValueError for the model itself, another device or another vocabulary.
    """
    if reference is model:
        raise ValueError("the reference must not be the model that is trained; leave it out for a frozen copy")
    where = [next(module.parameters()).device for module in (model, reference)]
    if where[0] != where[1]:
        raise ValueError(
            f"the reference is on {where[1]} and the model on {where[0]}; move it with .to({str(where[0])!r})"
        )
    sizes = [module.config.vocab_size for module in (model, reference)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"reference and model must share a vocabulary, got {sizes[1]} and {sizes[0]} tokens")
