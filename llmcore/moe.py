"""Mixture of experts: a router that picks experts per token, the experts, and the two ways to keep their load even.

The router's statistics of a forward are handed back as a `Routing`, so that a loss can be formed from them; nothing is
kept on the module.

Taught in: 03_norms (stability of routers) and the reading of chapter 02's architectures.
"""

# Shapes: N tokens, X experts, k experts per token, E width, F expert width.
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmcore.layers import feed_forward, ffn_parts

RouterKind = Literal["softmax", "sigmoid"]
ROUTER_KINDS: tuple[RouterKind, ...] = ("softmax", "sigmoid")


@dataclass(frozen=True, kw_only=True)
class MoeConfig:
    """Mixture of experts: each token goes to `top_k` of `n_experts` small feed-forward networks.

    Source: Switch, arXiv:2101.03961; Mixtral, arXiv:2401.04088; DeepSeek-V3, arXiv:2412.19437.
    """

    n_experts: int
    """Routed experts."""
    top_k: int
    """Experts that a token is sent to."""
    expert_width: int
    """Hidden width of one expert."""
    n_shared: int = 0
    """Experts that every token passes through, built as one network of n_shared * expert_width."""
    router: RouterKind = "softmax"
    """How router logits become scores."""
    normalize: bool = True
    """Divide the chosen scores by their sum."""
    scale: float = 1.0
    """Multiplies the routed experts' weights."""
    n_groups: int = 1
    """Experts stand in this many groups; a token first picks groups by the sum of their two best scores."""
    top_groups: int = 1
    """Groups that a token may choose experts from."""
    bias_balancing: bool = False
    """Add a bias per expert to the scores that choose (not to the weights), nudged by load instead of by a loss."""
    bias_step: float = 0.001
    """How far `update_balance` moves each expert's bias."""
    balance_loss: float = 0.0
    """Coefficient of the load-balancing loss."""
    router_z_loss: float = 0.0
    """Coefficient of the mean squared log-partition of the router."""
    dense_layers: tuple[int, ...] = ()
    """Layers that keep a plain feed-forward network of the model's ffn_width."""

    def __post_init__(self) -> None:
        for name, least in (("n_experts", 1), ("expert_width", 1), ("n_shared", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"moe.{name} must be at least {least}, got {getattr(self, name)}")
        if self.router not in ROUTER_KINDS:
            raise ValueError(f"moe.router must be 'softmax' or 'sigmoid', got {self.router!r}")
        if not 1 <= self.top_k <= self.n_experts:
            raise ValueError(f"moe.top_k must be between 1 and n_experts={self.n_experts}, got {self.top_k}")
        if self.n_groups < 1 or self.n_experts % self.n_groups:
            raise ValueError(f"moe.n_groups must divide n_experts={self.n_experts}, got {self.n_groups}")
        if not 1 <= self.top_groups <= self.n_groups:
            raise ValueError(f"moe.top_groups must be between 1 and n_groups={self.n_groups}, got {self.top_groups}")
        if self.n_groups > 1 and self.n_experts // self.n_groups < 2:
            raise ValueError(
                f"moe.n_groups={self.n_groups} leaves groups of one expert; a group is ranked by its two best, use fewer"
            )
        if self.top_k > self.top_groups * (self.n_experts // self.n_groups):
            raise ValueError(
                f"moe.top_k={self.top_k} is more than the {self.top_groups * (self.n_experts // self.n_groups)} experts "
                f"of {self.top_groups} groups; raise top_groups or lower top_k"
            )


@dataclass
class Routing:
    """Where a router sent the tokens of one forward."""

    logits: Float[Tensor, "N X"]
    """Router logits in float32."""
    scores: Float[Tensor, "N X"]
    """Softmax or sigmoid of the logits."""
    experts: Int[Tensor, "N k"]
    """Chosen experts."""
    weights: Float[Tensor, "N k"]
    """What each chosen expert's output is multiplied by."""

    def load(self) -> Float[Tensor, "X"]:
        """Tokens sent to each expert, as a share of tokens * k."""
        counts = torch.bincount(self.experts.flatten(), minlength=self.logits.shape[1])
        return counts.float() / self.experts.numel()


def route(
    logits: Float[Tensor, "N X"],
    top_k: int,
    *,
    kind: RouterKind = "softmax",
    normalize: bool = True,
    scale: float = 1.0,
    choice_bias: Float[Tensor, "X"] | None = None,
    n_groups: int = 1,
    top_groups: int = 1,
) -> Routing:
    """The top_k experts of every token and their weights, computed in float32.

    `choice_bias` is added to the scores that choose and not to the weights. With groups, only the experts of the
    `top_groups` groups with the greatest sum of their two best scores can be chosen.

    >>> route(torch.tensor([[0.0, 2.0, 1.0]]), top_k=2).experts.tolist()
    [[1, 2]]

    Raises: ValueError for another kind.
    Source: Mixtral, arXiv:2401.04088, section 2.1; DeepSeek-V3, arXiv:2412.19437, eqs. 13-16.
    """
    logits = logits.float()
    if kind not in ROUTER_KINDS:
        raise ValueError(f"router kind must be 'softmax' or 'sigmoid', got {kind!r}")
    scores = logits.softmax(dim=-1) if kind == "softmax" else logits.sigmoid()
    ranking = scores if choice_bias is None else scores + choice_bias
    if n_groups > 1:
        grouped = ranking.view(-1, n_groups, ranking.shape[-1] // n_groups)
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(top_groups, dim=-1).indices
        kept = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter_(1, best, True)
        ranking = grouped.masked_fill(~kept[..., None], -torch.inf).flatten(1)
    experts = ranking.topk(top_k, dim=-1).indices
    weights = scores.gather(1, experts)
    if normalize:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return Routing(logits=logits, scores=scores, experts=experts, weights=weights * scale)


def balance_loss(routing: Routing) -> Float[Tensor, ""]:
    """X * sum over experts of (share of tokens sent there) * (mean score there): 1 when both are even.

    Sigmoid scores are first divided by their sum per token. The gradient flows through the scores alone.

    Source: Switch Transformers, arXiv:2101.03961, eqs. 4-6; DeepSeek-V3, arXiv:2412.19437, eqs. 17-20.
    """
    shares = routing.scores / routing.scores.sum(dim=-1, keepdim=True)
    return routing.scores.shape[1] * (routing.load() * shares.mean(dim=0)).sum()


def router_z_loss(routing: Routing) -> Float[Tensor, ""]:
    """Mean over tokens of log-sum-exp(router logits)^2, which keeps them small.

    Source: ST-MoE, arXiv:2202.08906, eq. 5.
    """
    return routing.logits.logsumexp(dim=-1).square().mean()


class Experts(nn.Module):
    """X feed-forward networks with their weights stacked, (X, out, in); each runs once, on its own tokens."""

    def __init__(self, n_experts: int, width: int, expert_width: int, kind: str = "swiglu") -> None:
        super().__init__()
        self.activation, self.gated = ffn_parts(kind)
        if self.gated:
            self.gate_proj = nn.Parameter(torch.empty(n_experts, expert_width, width))
        self.up_proj = nn.Parameter(torch.empty(n_experts, expert_width, width))
        self.down_proj = nn.Parameter(torch.empty(n_experts, width, expert_width))
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.02)

    def forward(
        self, x: Float[Tensor, "N E"], experts: Int[Tensor, "N k"], weights: Float[Tensor, "N k"]
    ) -> Float[Tensor, "N E"]:
        order = experts.flatten().argsort(stable=True)  # (token, slot) pairs, gathered by expert
        counts = torch.bincount(experts.flatten(), minlength=len(self.up_proj)).tolist()
        parts = x[order // experts.shape[1]].split(counts)
        y = torch.cat([self._run(expert, part) for expert, part in enumerate(parts) if len(part)])
        y_NkE = y[order.argsort()].view(*experts.shape, -1)  # back in the order of tokens
        return (y_NkE * weights[..., None].to(x.dtype)).sum(dim=1)

    def _run(self, expert: int, x: Float[Tensor, "n E"]) -> Float[Tensor, "n E"]:
        hidden = F.linear(x, self.up_proj[expert])
        if self.gated:
            hidden = self.activation(F.linear(x, self.gate_proj[expert])) * hidden
        else:
            hidden = self.activation(hidden)
        return F.linear(hidden, self.down_proj[expert])


class MixtureOfExperts(nn.Module):
    """Router, routed experts, and shared experts that every token passes through.

    With bias_balancing, `update_balance` is called once a training step.

    Source: DeepSeekMoE, arXiv:2401.06066; auxiliary-loss-free balancing, arXiv:2408.15664.
    """

    def __init__(self, config: MoeConfig, width: int, ffn: str = "swiglu") -> None:
        super().__init__()
        self.config = config
        self.router = nn.Linear(width, config.n_experts, bias=False)
        self.experts = Experts(config.n_experts, width, config.expert_width, ffn)
        self.shared = feed_forward(width, config.n_shared * config.expert_width, ffn) if config.n_shared else None
        if config.bias_balancing:
            self.register_buffer("choice_bias", torch.zeros(config.n_experts))
        else:
            self.choice_bias = None

    def forward(self, x: Float[Tensor, "B T E"], routings: list[Routing] | None = None) -> Float[Tensor, "B T E"]:
        x_NE = x.reshape(-1, x.shape[-1])
        routing = route(
            F.linear(x_NE.float(), self.router.weight.float()),
            self.config.top_k,
            kind=self.config.router,
            normalize=self.config.normalize,
            scale=self.config.scale,
            choice_bias=self.choice_bias,
            n_groups=self.config.n_groups,
            top_groups=self.config.top_groups,
        )
        if routings is not None:
            routings.append(routing)
        y = self.experts(x_NE, routing.experts, routing.weights).view_as(x)
        return y if self.shared is None else y + self.shared(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MixtureOfExperts":
        """`model.to(torch.bfloat16)` must not round the bias, whose steps are smaller than its spacing there."""
        exact = self.choice_bias
        super()._apply(fn, recurse)
        if exact is not None:
            device = self.choice_bias.device
            self.choice_bias = torch.zeros_like(exact, device=device) if exact.is_meta else exact.to(device)
        return self

    @torch.no_grad()
    def update_balance(self, routing: Routing) -> None:
        """Move each expert's bias one step: up where it got less than its even share, down where it got more.

        Source: Auxiliary-Loss-Free Load Balancing, arXiv:2408.15664, algorithm 1.
        """
        if self.choice_bias is None:
            raise ValueError("this router has no bias to move; build it with bias_balancing=True")
        even = 1 / self.config.n_experts
        self.choice_bias += self.config.bias_step * torch.sign(even - routing.load()).to(self.choice_bias)
