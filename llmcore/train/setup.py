"""The parts of a run as a config asks for them: objective, optimizer, learning rate, report."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from llmcore import accounting
from llmcore.model.transformer import Transformer
from llmcore.optim import AdamW, Muon, parameter_groups, schedules
from llmcore.train.config import TrainConfig
from llmcore.train.objective import Objective, checkpoint_activations
from llmcore.train.parallel import Place
from llmcore.train.report import Reporter

WORK_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PEAK_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "tf32"}


def micro_batches(config: TrainConfig, world: int) -> tuple[int, int]:
    """(rows of a micro-batch, micro-batches per step) of each of `world` processes.

    Raises: ValueError when batch_size cannot be divided so.
    """
    if config.batch_size % world:
        raise ValueError(f"batch_size must be a multiple of the {world} processes, got {config.batch_size}")
    share = config.batch_size // world
    micro_batch = config.micro_batch or share
    if share % micro_batch:
        raise ValueError(
            f"micro_batch times {world} processes must divide batch_size={config.batch_size}, got {micro_batch}; "
            f"{share} would do without accumulation"
        )
    return micro_batch, share // micro_batch


def make_objective(config: TrainConfig, model: Transformer, place: Place) -> Objective:
    """The model with its loss, checkpointed and compiled as the config says."""
    if config.activation_checkpointing:
        checkpoint_activations(model)
    objective = Objective(
        model,
        label_smoothing=config.label_smoothing,
        z_loss=config.z_loss,
        chunk_tokens=config.loss_chunk_tokens,
        compiled=config.compile and place.device.type == "cuda",
    )
    if config.compile and place.mode == "fsdp":
        for block in model.blocks:
            block.compile()
    elif config.compile:
        objective.compile_hidden()
    return objective


def make_optimizer(config: TrainConfig, model: Transformer, place: Place) -> torch.optim.Optimizer:
    """AdamW, or Muon with AdamW for what is no hidden matrix."""
    if config.lora.get("lr_ratio", 1) != 1:
        from llmcore.lora import lora_parameter_groups

        groups = lora_parameter_groups(
            model, config.lr, ratio=config.lora["lr_ratio"], weight_decay=config.weight_decay
        )
    else:
        groups = parameter_groups(model, config.weight_decay, muon=config.optimizer == "muon")
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
    return Muon(
        groups, lr=config.lr, momentum=config.momentum, scale=config.muon_scale, betas=config.betas, eps=config.eps,
        process_group=dist.group.WORLD if place.mode == "ddp" else None,
    )  # fmt: skip


def set_learning_rates(config: TrainConfig, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Give every group its learning rate for update `number`, counted from 1."""
    schedule = getattr(schedules, f"{config.schedule}_schedule")
    options = {"decay_steps": config.decay_steps} if config.schedule == "wsd" else {}
    for group in optimizer.param_groups:
        left_to_adamw = config.optimizer == "muon" and not group["muon"]
        factor = config.adamw_lr / config.lr if left_to_adamw and config.adamw_lr is not None else 1.0
        lr = schedule(number, config.lr, config.min_lr, config.warmup_steps, config.total_steps, **options)
        group["lr"] = lr * factor * group.get("lr_factor", 1.0)


def autocast(config: TrainConfig, place: Place) -> contextlib.AbstractContextManager:
    """The context in which the forward pass runs."""
    dtype = WORK_DTYPES.get(config.precision)
    if dtype is None or place.mode == "fsdp":  # FSDP2 casts the weights that it gathers
        return contextlib.nullcontext()
    return torch.autocast(place.device.type, dtype=dtype)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """PyTorch's setting for float32 products while the run lasts: exact for fp32, else tf32 where there is such a thing."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next step instead of returning it to the system; whether it will.

    Activations of a step are freed and asked for again thousands of times. By default glibc hands every block of megabytes back, and the system
    zeroes each page of the next one: 3 to 5 % of a step on a CPU. The process then keeps the memory of its largest step, as CUDA's allocator does.
    Elsewhere than on Linux with glibc nothing is changed. Source: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, 1 << 30) and mallopt(mmap_threshold, 32 << 20))


def seed_step(config: TrainConfig, number: int, place: Place) -> None:
    """Seed PyTorch's default generators, from which dropout draws, for update `number` of this process."""
    seed = ((config.seed * 1_000_003 + number) * 4099 + place.rank) % 2**63
    torch.default_generator.manual_seed(seed)
    if place.device.type == "cuda":
        torch.cuda.manual_seed(seed)


def start_report(config: TrainConfig, model: Transformer, place: Place, step: int) -> Any:
    """The reporter of the first process; the others' says nothing."""
    if not place.is_first:
        return Silence()
    return Reporter(
        Path(config.out_dir),
        first_step=step,
        total_steps=config.total_steps,
        flops_per_token=float(accounting.flops_per_token(model.config, config.context, formula="nanogpt")),
        peak_flops=peak_flops(place, config.precision),
        progress=config.progress,
        tensorboard=config.tensorboard,
        log_every=config.log_every,
    )


def peak_flops(place: Place, precision: str) -> float | None:
    """The published peak of all devices together, None where none is published."""
    if place.device.type != "cuda":
        return None
    try:
        hardware = accounting.find_hardware(torch.cuda.get_device_name(place.device))
    except ValueError:
        return None
    peak = hardware.flops.get(PEAK_NAMES[precision])
    return None if peak is None else peak * place.world


class Silence:
    """Takes every message and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None
