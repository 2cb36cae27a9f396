"""The training loss of a `Transformer`: next-token cross-entropy and what the config adds to it.

Taught in: 05_kl_entropy.
"""

# Shapes: B batch, T time, V vocabulary.
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from llmcore.model.transformer import Transformer
from llmcore.moe import Routing, balance_loss, router_z_loss

IGNORED = -100


def token_loss(logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats over the targets that are not -100; 0 when all are."""
    total = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def routing_losses(model: Transformer, routings: list[Routing]) -> dict[str, Tensor]:
    """The routers' balance and z losses, each the mean over layers times its coefficient; those with coefficient 0 left out."""
    moe = model.config.moe
    if moe is None or not routings:
        return {}
    parts = {"balance": (moe.balance_loss, balance_loss), "router_z": (moe.router_z_loss, router_z_loss)}
    return {
        name: coefficient * sum(loss(routing) for routing in routings) / len(routings)
        for name, (coefficient, loss) in parts.items()
        if coefficient
    }


def training_loss(
    model: Transformer,
    ids: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    doc_ids: Int[Tensor, "B T"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """The parts of the loss and, under "total", their sum: what to call backward on.

    `targets` are the next tokens, -100 where there is none to predict. Parts: "token" always; "z", "mtp", "balance" and
    "router_z" where the config asks for them. Routers with bias balancing move their biases, when the model is training.

    Source: z-loss, PaLM, arXiv:2204.02311, section 5; MTP, arXiv:2412.19437, eq. 25.
    """
    config = model.config
    routings: list[Routing] = []
    hidden = model.hidden(ids, doc_ids=doc_ids, routings=routings)
    logits = model.logits(hidden)
    losses = {"token": token_loss(logits, targets)}
    if config.z_loss:
        kept = targets != IGNORED
        log_z_squared = logits.float().logsumexp(dim=-1).square()
        losses["z"] = config.z_loss * (log_z_squared * kept).sum() / kept.sum().clamp(min=1)
    if config.n_mtp and ids.shape[1] > config.n_mtp:
        later = model.mtp_logits(hidden, ids, doc_ids=doc_ids)
        parts = [token_loss(ahead, _later_targets(targets, doc_ids, depth)) for depth, ahead in enumerate(later, 1)]
        losses["mtp"] = config.mtp_loss * sum(parts) / len(parts)
    losses |= routing_losses(model, routings)
    if config.moe is not None and config.moe.bias_balancing and model.training:
        for layer, routing in zip(model.moe_layers(), routings, strict=True):
            layer.update_balance(routing)
    losses["total"] = sum(losses.values())
    return losses


def _later_targets(targets: Tensor, doc_ids: Tensor | None, depth: int) -> Int[Tensor, "B T_k"]:
    """Targets of the module that looks `depth` tokens further, -100 where that crosses into another document."""
    later = targets[:, depth:]
    return later if doc_ids is None else later.masked_fill(doc_ids[:, :-depth] != doc_ids[:, depth:], IGNORED)
