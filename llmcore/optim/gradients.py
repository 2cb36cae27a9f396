"""Which parameters are treated how, and clipping of their gradients."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

HEAD_NAMES = ("head", "lm_head")


def parameter_groups(model: nn.Module, weight_decay: float, *, muon: bool = False) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: matrices decay; norms, biases and other vectors do not.

    With muon=True the hidden matrices (every matrix but embeddings and the output head, stacks of expert matrices included)
    come first, in a group of their own with "muon": True; the other groups have "muon": False. Frozen parameters are left
    out, a shared parameter is counted once, and empty groups are dropped.

    >>> model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    >>> [(len(group["params"]), group["weight_decay"]) for group in parameter_groups(model, 0.1)]
    [(2, 0.1), (3, 0.0)]
    >>> [(len(group["params"]), group["muon"]) for group in parameter_groups(model, 0.1, muon=True)]
    [(1, True), (1, False), (3, False)]

    Raises: ValueError when weight_decay is negative or nothing is trainable.
    """
    if weight_decay < 0:
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    outer = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_head = len(path := name.split(".")) > 1 and path[-2] in HEAD_NAMES
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif muon and not is_head and id(parameter) not in outer:
            hidden.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": hidden, "weight_decay": weight_decay, "muon": True},
        {"params": matrices, "weight_decay": weight_decay, "muon": False},
        {"params": vectors, "weight_decay": 0.0, "muon": False},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("the model has no trainable parameter; set requires_grad on what should learn")
    if not muon:
        for group in groups:
            del group["muon"]
    return groups


@torch.no_grad()
def clip_gradients(parameters: Iterable[Tensor] | Tensor, max_norm: float | None) -> Float[Tensor, ""]:
    """The norm of all gradients together, measured before they are scaled, in place, to a norm of at most max_norm.

    None, or inf, measures only. The norm is accumulated in float32 and stays on the device: nothing here waits for a GPU. Sharded gradients
    (DTensor) count as the whole tensors they are. A non-finite norm makes every gradient non-finite: look at the norm before the update.

    >>> weight = nn.Parameter(torch.zeros(2)); weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], max_norm=1.0).item(), weight.grad.norm().round(decimals=3).item()
    (5.0, 1.0)

    Raises: ValueError for a max_norm that is not positive.
    Source: arXiv:1211.5063, algorithm 1.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm}; to leave gradients as they are pass None")
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.tensor(0.0)
    device = gradients[0].device
    by_kind: dict[tuple, list[Tensor]] = {}
    for gradient in gradients:
        by_kind.setdefault((gradient.device, gradient.dtype, type(gradient)), []).append(gradient)
    norms = [_joint_norm(same).to(device) for same in by_kind.values()]
    norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    if max_norm is not None and max_norm != float("inf") and not (device.type == "cpu" and norm <= max_norm):
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for (where, _, _), same in by_kind.items():
            torch._foreach_mul_(same, factor.to(where))
    return norm


def _joint_norm(gradients: list[Tensor]) -> Float[Tensor, ""]:
    norms = torch._foreach_norm(gradients, 2, torch.float32)
    total = torch.linalg.vector_norm(torch.stack(list(norms)))
    return total.full_tensor() if hasattr(total, "full_tensor") else total
