"""`Objective`: a model together with its loss, one module, so that DDP, FSDP2 and torch.compile see whole training steps.

Taught in: 05_kl_entropy.
"""

# Shapes: B rows, T tokens.
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmcore.data.batches import Batch
from llmcore.model.losses import routing_losses, token_loss
from llmcore.model.transformer import Transformer
from llmcore.moe import Routing
from llmcore.train.loss import IGNORED, linear_cross_entropy


class Objective(nn.Module):
    """Called with a batch, gives (loss to call backward on, sum of the cross-entropies of its tokens).

    The loss is the sum of the token losses times `token_weight`, plus the mean losses of routers and multi-token prediction times
    `share`; with token_weight 1 / (targets of the whole step) and share 1 / (micro-batches of the step) the gradients of all
    micro-batches add up to those of the whole step's mean.
    """

    def __init__(
        self,
        model: Transformer,
        *,
        label_smoothing: float = 0.0,
        z_loss: float | None = None,
        chunk_tokens: int | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.loss_options = {
            "softcap": model.config.logit_softcap,
            "label_smoothing": label_smoothing,
            "z_loss": model.config.z_loss if z_loss is None else z_loss,
            "chunk_tokens": chunk_tokens,
            "compiled": compiled,
        }
        self.hidden = model.hidden

    def compile_hidden(self) -> None:
        """Run the model up to its last hidden states through torch.compile."""
        self.hidden = torch.compile(self.model.hidden)

    def forward(
        self, batch: Batch, token_weight: float | Float[Tensor, ""] = 1.0, share: float = 1.0
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        model, config = self.model, self.model.config
        routings: list[Routing] = []
        hidden = self.hidden(batch.ids, batch.positions, batch.doc_ids, routings=routings)
        loss, cross_entropy = linear_cross_entropy(hidden, model.head_weight, batch.targets, **self.loss_options)
        loss = loss * token_weight
        if self.training:
            extra = list(routing_losses(model, routings).values())
            if config.n_mtp and batch.ids.shape[1] > config.n_mtp:
                extra.append(config.mtp_loss * mtp_loss(model, hidden, batch))
            if extra:
                loss = loss + share * sum(extra)
            if config.moe is not None and config.moe.bias_balancing:
                for layer, routing in zip(model.moe_layers(), routings, strict=True):
                    layer.update_balance(routing)
        return loss, cross_entropy


def mtp_loss(model: Transformer, hidden: Float[Tensor, "B T E"], batch: Batch) -> Float[Tensor, ""]:
    """Mean over the multi-token-prediction modules of their cross-entropy; targets in another document do not count.

    Source: arXiv:2412.19437, eq. 24 and 25.
    """
    losses = []
    for depth, logits in enumerate(model.mtp_logits(hidden, batch.ids, batch.positions, batch.doc_ids), start=1):
        targets = batch.targets[:, depth:]
        if batch.doc_ids is not None:
            targets = targets.masked_fill(batch.doc_ids[:, :-depth] != batch.doc_ids[:, depth:], IGNORED)
        losses.append(token_loss(logits, targets))
    return sum(losses) / len(losses)


def checkpoint_activations(model: Transformer) -> None:
    """Let every block keep its input only and compute the rest again in the backward pass.

    Source: Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
