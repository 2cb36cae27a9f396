"""LoRA+: B learns faster than A."""

from typing import Any

from torch import nn

from llmcore.lora.model import lora_layers


def lora_parameter_groups(
    model: nn.Module, lr: int | float, *, ratio: int | float = 16.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: A and what else is trainable at lr, B at lr * ratio, magnitudes without decay.

    Each group says its factor as "lr_factor" too, so that a schedule can multiply it in. Empty groups are dropped, and
    a layer that stands in several places counts once.

    >>> from llmcore.lora import inject
    >>> model = nn.Sequential(nn.Linear(4, 3))
    >>> inject(model, ["0"], r=2)
    14
    >>> [(group["lr"], [tuple(p.shape) for p in group["params"]]) for group in lora_parameter_groups(model, 0.5, ratio=4)]
    [(0.5, [(2, 4)]), (2.0, [(3, 2)])]

    Raises: ValueError for a ratio that is not positive, a negative lr or decay, or a model without trainable adapters.
    Source: LoRA+, arXiv:2402.12354, section 4.  Taught in: 06_lora.
    """
    if not ratio > 0 or lr < 0 or weight_decay < 0:
        raise ValueError(
            f"ratio must be positive, lr and weight_decay at least 0, got {ratio}, {lr} and {weight_decay}"
        )
    fast = {id(one.lora_b) for layer in lora_layers(model).values() for one in layer.adapters.values()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not any(id(parameter) in fast for parameter in trainable):
        raise ValueError("the model has no trainable adapter; add one with inject, or activate one with set_adapter")
    matrices = [parameter for parameter in trainable if parameter.ndim > 1 and id(parameter) not in fast]
    vectors = [parameter for parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "lr": lr, "lr_factor": 1.0, "weight_decay": weight_decay},
        {"params": [parameter for parameter in trainable if id(parameter) in fast], "lr": lr * ratio, "lr_factor": ratio,
         "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "lr_factor": 1.0, "weight_decay": 0.0},
    ]  # fmt: skip
    return [group for group in groups if group["params"]]
