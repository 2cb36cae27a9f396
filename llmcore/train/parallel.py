"""One process or many: who this process is, where it computes, and how the model is spread (DDP or FSDP2, PyTorch's own).

Left out on purpose: tensor, pipeline and expert parallelism.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Mode = Literal["one", "ddp", "fsdp"]


@dataclass(frozen=True)
class Place:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device
    mode: Mode

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The values added up over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            dist.barrier()

    def tell(self, message: Any) -> Any:
        """The first process's message, on every process."""
        if self.world == 1:
            return message
        box = [message]
        dist.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]


def pick_device(name: str) -> torch.device:
    """The device of this process: "auto" takes CUDA where it is, and torchrun's LOCAL_RANK chooses among several.

    Raises: ValueError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or a torch device, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError('device is "cuda", but this PyTorch sees no GPU; use device = "cpu" or "auto"')
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return device


@contextlib.contextmanager
def processes(device_name: str, parallel: str) -> Iterator[Place]:
    """This process's place; joins the others when torchrun started several, and leaves them at the end.

    Raises: ValueError as `pick_device`, and for several processes of which none is told how to share.
    """
    device = pick_device(device_name)
    world = int(os.environ.get("WORLD_SIZE", 1))
    joined_here = world > 1 and not dist.is_initialized()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if joined_here:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if world == 1:
        yield Place(0, 1, device, "one")
        return
    try:
        yield Place(dist.get_rank(), world, device, "fsdp" if parallel == "fsdp" else "ddp")
    finally:
        if joined_here:
            dist.destroy_process_group()


def spread(objective: nn.Module, place: Place, precision: str) -> nn.Module:
    """The objective as this run's processes train it: itself, in DDP, or sharded block by block with FSDP2."""
    if place.mode == "ddp":
        devices = [place.device.index] if place.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(objective, device_ids=devices, gradient_as_bucket_view=True)
    if place.mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(place.device.type, (place.world,))
        work = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        policy = MixedPrecisionPolicy(param_dtype=work, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for block in objective.model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=policy)
    return objective


@contextlib.contextmanager
def exchanging_gradients(spread_objective: nn.Module, place: Place, now: bool) -> Iterator[None]:
    """Exchange gradients between processes in the backward pass only when `now`: the last of several micro-batches."""
    if place.mode == "ddp" and not now:
        with spread_objective.no_sync():
            yield
        return
    if place.mode == "fsdp":
        spread_objective.set_requires_gradient_sync(now)
    yield
