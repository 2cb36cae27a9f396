"""Muon: momentum whose every matrix is replaced by the nearest matrix with all singular values about 1.

Only hidden matrices are meant (see `parameter_groups(model, decay, muon=True)`); embeddings, the head, norms and biases go to
AdamW inside the same optimizer, so that one `step`, one schedule and one checkpoint serve both.

Where the work is: orthogonalising. Matrices of one shape go through it as one batch. With a process group (DDP) each rank
orthogonalises its share and the results are gathered; with sharded parameters (FSDP2) each rank receives whole matrices, its share
of them, and sends the results back. The momentum is replicated or sharded as the parameters are.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from llmcore.optim.adamw import Implementation, check_adamw, step_group
from llmcore.optim.base import LightOptimizer

Scale = Literal["rms", "original"]
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
TINY = 1e-7


def orthogonalize(
    matrix: Float[Tensor, "*batch N M"], steps: int = 5, dtype: torch.dtype | None = None
) -> Float[Tensor, "*batch N M"]:
    """About U V^T of the singular value decomposition U S V^T: singular values near 1 (0.7 to 1.2), same directions.

    Newton-Schulz: X <- a X + b (X X^T) X + c (X X^T)^2 X, from X scaled to Frobenius norm 1; matrix products only. dtype None
    works in bfloat16 on CUDA and float32 elsewhere; the result has the dtype of `matrix`. A zero matrix stays zero.

    >>> singular_values = torch.linalg.svdvals(orthogonalize(torch.tensor([[3.0, 0.0], [0.0, 1.0]])))
    >>> bool((singular_values > 0.6).all() and (singular_values < 1.3).all())
    True

    Source: Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), coefficients from there; iteration, arXiv:2409.20325.
    """
    a, b, c = NS_COEFFICIENTS
    work = dtype or (torch.bfloat16 if matrix.is_cuda else torch.float32)
    x = matrix.to(work)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrix.dtype)


def update_scale(rows: int, columns: int, scale: Scale) -> float:
    """What an orthogonal update is multiplied by beside the learning rate.

    "rms" gives it the root mean square that AdamW's updates have, about 0.2, whatever the shape, so that AdamW's learning
    rate and decay can be kept; "original" is sqrt(max(1, rows / columns)), to be used with a rate of about 0.02.

    >>> update_scale(400, 100, "rms"), update_scale(400, 100, "original")
    (4.0, 2.0)

    Source: rms, Moonlight, arXiv:2502.16982, section 2.2; original, the Muon post.
    """
    return 0.2 * max(rows, columns) ** 0.5 if scale == "rms" else max(1.0, rows / columns) ** 0.5


class Muon(LightOptimizer):
    """Muon for groups of matrices, AdamW for groups with "muon": False.

    A matrix may be 2-D, or 3-D for a stack of expert matrices. `process_group` shares the work between ranks that hold the
    same parameters and gradients (DDP); sharded parameters need none.

    >>> weight = torch.nn.Parameter(torch.zeros(2, 2)); weight.grad = torch.eye(2)
    >>> Muon([weight], lr=0.1, weight_decay=0.0).step()
    >>> bool(weight[0, 0] < -0.01), bool(weight[0, 1] == 0)
    (True, True)

    Raises: ValueError for values out of range, an unknown scale, or a parameter in a Muon group that is no matrix.
    Source: Jordan et al. 2024; Nesterov momentum written as a running mean, as torch.optim.Muon has it.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        *,
        nesterov: bool = True,
        scale: Scale = "rms",
        ns_steps: int = 5,
        ns_dtype: torch.dtype | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        implementation: Implementation = "auto",
        process_group: Any = None,
    ) -> None:
        check_adamw(lr, betas, eps, weight_decay, implementation)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if scale not in ("rms", "original"):
            raise ValueError(f"scale must be 'rms' or 'original', got {scale!r}")
        if ns_steps < 1:
            raise ValueError(f"ns_steps must be at least 1, got {ns_steps}")
        self.implementation = implementation
        self.ns_dtype = ns_dtype
        self.process_group = process_group
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov, "scale": scale,
            "ns_steps": ns_steps, "betas": betas, "eps": eps, "muon": True,
        }  # fmt: skip
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if group["muon"] and parameter.ndim not in (2, 3):
                    raise ValueError(
                        f"Muon takes matrices, got a parameter of shape {tuple(parameter.shape)}; put it in a group with "
                        '"muon": False, as parameter_groups(model, weight_decay, muon=True) does'
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient; what the closure returned, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
            else:
                step_group(self.state, group, self.implementation)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"]) if group["nesterov"] else buffers
        by_shape: dict[tuple, list[int]] = {}
        for index, parameter in enumerate(parameters):
            by_shape.setdefault((parameter.shape, parameter.dtype, parameter.device), []).append(index)
        for (shape, _, _), indices in by_shape.items():
            directions = self._orthogonalize_all([ahead[index] for index in indices], group["ns_steps"])
            same = [parameters[index] for index in indices]
            torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(same, directions, alpha=-group["lr"] * update_scale(*shape[-2:], group["scale"]))

    def _orthogonalize_all(self, matrices: list[Tensor], steps: int) -> list[Tensor]:
        """`orthogonalize` of matrices of one shape, the work shared between ranks where there are several."""
        if hasattr(matrices[0], "full_tensor"):
            return orthogonalize_sharded(matrices, steps, self.ns_dtype)
        if self.process_group is None or dist.get_world_size(self.process_group) == 1:
            return list(orthogonalize(torch.stack(matrices), steps, self.ns_dtype).unbind())
        return orthogonalize_replicated(matrices, steps, self.ns_dtype, self.process_group)


def orthogonalize_replicated(
    matrices: list[Tensor], steps: int, dtype: torch.dtype | None, process_group: Any
) -> list[Tensor]:
    """`orthogonalize` of matrices that every rank holds: each rank does every W-th, then all gather."""
    world, rank = dist.get_world_size(process_group), dist.get_rank(process_group)
    each = -(-len(matrices) // world)
    mine = torch.zeros(each, *matrices[0].shape, dtype=matrices[0].dtype, device=matrices[0].device)
    own = matrices[rank * each : (rank + 1) * each]
    if own:
        mine[: len(own)] = orthogonalize(torch.stack(own), steps, dtype)
    gathered = mine.new_empty(world * each, *mine.shape[1:])
    dist.all_gather(list(gathered.chunk(world)), mine, group=process_group)
    return list(gathered[: len(matrices)].unbind())


def orthogonalize_sharded(matrices: list[Tensor], steps: int, dtype: torch.dtype | None) -> list[Tensor]:
    """`orthogonalize` of DTensors, sharded as they came.

    Rows spread over a one-dimensional mesh are exchanged so that each rank holds whole matrices, every W-th of them, and are
    exchanged back; stacks spread by matrix need no exchange. Any other placement gathers every matrix on every rank.
    """
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    first = matrices[0]
    mesh, placements = first.device_mesh, first.placements
    local = [matrix.to_local() for matrix in matrices]
    if mesh.ndim == 1 and placements[0] == Shard(0):
        done = (
            [orthogonalize(part, steps, dtype) if part.numel() else part for part in local]
            if first.ndim == 3
            else _exchange_and_orthogonalize(local, first.shape[0], steps, dtype, mesh.get_group())
        )
        return [
            DTensor.from_local(part, mesh, placements, run_check=False, shape=first.shape, stride=first.stride())
            for part in done
        ]
    whole = torch.stack([matrix.full_tensor() for matrix in matrices])
    return [distribute_tensor(one, mesh, placements) for one in orthogonalize(whole, steps, dtype)]


def _exchange_and_orthogonalize(
    local: list[Tensor], rows: int, steps: int, dtype: torch.dtype | None, process_group: Any
) -> list[Tensor]:
    """Row shards in, row shards of the orthogonalised matrices out.

    Shards are padded with zero rows to one height; zero rows stay zero and change nothing else.
    """
    world = dist.get_world_size(process_group)
    height, columns = -(-rows // world), local[0].shape[1]
    each = -(-len(local) // world)
    sent = local[0].new_zeros(world * each, height, columns)
    for place, part in enumerate(local):
        sent[place, : part.shape[0]] = part
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=process_group)
    whole = received.view(world, each, height, columns).transpose(0, 1).reshape(each, world * height, columns)
    done = orthogonalize(whole, steps, dtype)
    back = done.view(each, world, height, columns).transpose(0, 1).reshape(world * each, height, columns).contiguous()
    dist.all_to_all_single(received, back, group=process_group)
    return [received[place, : part.shape[0]] for place, part in enumerate(local)]
