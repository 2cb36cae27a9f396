"""AdamW: Adam with weight decay that does not pass through the moments.

`adamw_update` is the formula, one tensor at a time. `AdamW` applies it to many tensors per call: "fused" is one kernel of
PyTorch's that reads and writes each element once; "foreach" is the formula again in horizontal operations, for the devices and
dtypes that have no such kernel. Their state has the names that torch.optim.AdamW uses, so either loads the other's.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from llmcore.optim.base import LightOptimizer

Implementation = Literal["auto", "plain", "foreach", "fused"]
FUSED_DEVICES = ("cpu", "cuda")


@torch.no_grad()
def adamw_update(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """Change one parameter and its two moments in place; step counts from 1.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    p = (1 - lr decay) p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    >>> p, m, v = torch.tensor([1.0]), torch.zeros(1), torch.zeros(1)
    >>> adamw_update(p, torch.tensor([0.5]), m, v, step=1, lr=0.1, weight_decay=0.0)
    >>> round(p.item(), 4)  # the first update is lr * sign(gradient)
    0.9

    Source: Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2, with decay multiplied by lr as PyTorch does.
    """
    beta1, beta2 = betas
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    denominator = (exp_avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(eps)
    parameter.mul_(1 - lr * weight_decay).addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))


class AdamW(LightOptimizer):
    """AdamW over parameters or parameter groups; equal to torch.optim.AdamW up to rounding.

    Works on sharded parameters (FSDP2's DTensor): every shard is updated where it lives. "auto" takes the fused kernel on CPU and CUDA,
    foreach elsewhere. Groups may override lr, betas, eps and weight_decay.

    >>> weight = torch.nn.Parameter(torch.ones(2)); weight.grad = torch.ones(2)
    >>> AdamW([weight], lr=0.1, weight_decay=0.0).step()
    >>> [round(value, 4) for value in weight.tolist()]
    [0.9, 0.9]

    Raises: ValueError for a negative lr, eps or decay, betas outside [0, 1), or an unknown implementation.
    Source: arXiv:1711.05101.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        implementation: Implementation = "auto",
    ) -> None:
        check_adamw(lr, betas, eps, weight_decay, implementation)
        self.implementation = implementation
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient; what the closure returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step_group(self.state, group, self.implementation)
        return loss


def check_adamw(lr: float, betas: tuple[float, float], eps: float, weight_decay: float, implementation: str) -> None:
    """Raise ValueError for a value outside its range."""
    for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {betas}")
    if implementation not in ("auto", "plain", "foreach", "fused"):
        raise ValueError(f"implementation must be auto, plain, foreach or fused, got {implementation!r}")


def step_group(state: dict[Tensor, dict[str, Tensor]], group: dict[str, Any], implementation: Implementation) -> None:
    """One AdamW update of one parameter group, its moments in `state`."""
    by_kind: dict[tuple, list[Tensor]] = {}
    for parameter in group["params"]:
        if parameter.grad is None:
            continue
        if not state[parameter]:
            # On the host the count costs nothing to read; the fused kernel wants it beside the parameter.
            state[parameter]["step"] = torch.zeros((), dtype=torch.float32)
            state[parameter]["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state[parameter]["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        by_kind.setdefault((parameter.device, parameter.dtype, type(parameter.grad)), []).append(parameter)
    for (device, dtype, _), parameters in by_kind.items():
        chosen = implementation
        if implementation == "auto":
            fits = device.type in FUSED_DEVICES and dtype.is_floating_point
            chosen = "fused" if fits else "foreach"
        _STEPS[chosen](parameters, [state[parameter] for parameter in parameters], group)


def _plain_step(parameters: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> None:
    options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
    for parameter, own in zip(parameters, states):
        own["step"] += 1
        adamw_update(parameter, parameter.grad, own["exp_avg"], own["exp_avg_sq"], int(own["step"]), **options)


def _foreach_step(parameters: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> None:
    """`adamw_update` line by line, each line for all parameters at once."""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    gradients = [parameter.grad for parameter in parameters]
    exp_avgs, exp_avg_sqs, counts = ([own[name] for own in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    torch._foreach_add_(counts, 1)
    steps = [int(count) for count in counts]
    torch._foreach_lerp_(exp_avgs, gradients, 1 - beta1)
    torch._foreach_mul_(exp_avg_sqs, beta2)
    torch._foreach_addcmul_(exp_avg_sqs, gradients, gradients, 1 - beta2)
    denominators = torch._foreach_sqrt(exp_avg_sqs)
    torch._foreach_div_(denominators, [(1 - beta2**step) ** 0.5 for step in steps])
    torch._foreach_add_(denominators, group["eps"])
    torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
    torch._foreach_addcdiv_(parameters, exp_avgs, denominators, [-lr / (1 - beta1**step) for step in steps])


def _fused_step(parameters: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    for parameter, own in zip(parameters, states):
        own["step"] = own["step"].to(parameter.device)
    exp_avgs, exp_avg_sqs, counts = ([own[name] for own in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    torch._foreach_add_(counts, 1)
    torch._fused_adamw_(
        parameters,
        [parameter.grad for parameter in parameters],
        exp_avgs,
        exp_avg_sqs,
        [],
        counts,
        lr=group["lr"],
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=False,
    )


_STEPS = {"plain": _plain_step, "foreach": _foreach_step, "fused": _fused_step}
