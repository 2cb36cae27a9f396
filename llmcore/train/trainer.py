"""`Trainer`: the training loop.

What makes a resumed run equal the uninterrupted one to the last bit (on CPU): the rows of a batch, dropout and samples depend on the
seed and the step only, the optimizer's state and a stream's place are in the checkpoint, and the log is cut back to the checkpoint.
The batch of a step is the same whatever the number of devices.

Nothing in the loop waits for a GPU but one look at the loss, which is ready while the backward pass still runs: so a loss that is not
finite stops the run before it has touched the weights.
"""

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from llmcore import accounting
from llmcore.data.batches import Batch, BatchSource
from llmcore.model.transformer import Transformer
from llmcore.optim import AdamW, Muon, clip_gradients, parameter_groups, schedules
from llmcore.train import checkpoint as ckpt
from llmcore.train import diagnosis
from llmcore.train.config import TrainConfig
from llmcore.train.interrupts import StopRequests
from llmcore.train.loss import IGNORED
from llmcore.train.objective import Objective, checkpoint_activations
from llmcore.train.parallel import Place, exchanging_gradients, processes, spread
from llmcore.train.prepare import Prepared, prepare
from llmcore.train.report import Reporter

WORK_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class TrainResult:
    """What `fit` gives back."""

    model: Transformer
    """The trained model, in evaluation mode."""
    tokenizer: Any
    """Its tokenizer; None where tokens came without one."""
    steps: int
    """Optimizer steps done, those before resuming included."""
    losses: list[float]
    """Mean cross-entropy of each step in nats per token; entry 0 is step 1."""
    eval_losses: list[tuple[int, float]] = field(default_factory=list)
    """(step, nats per token) of each evaluation of this call."""
    samples: list[tuple[int, str]] = field(default_factory=list)
    """(step, text) of each sample of this call."""
    checkpoint: Path | None = None
    """The newest checkpoint."""
    interrupted: bool = False
    """Whether a signal ended the run early; `fit` with the same out_dir goes on."""
    seconds: float = 0.0
    """Time of this call's loop."""


class Trainer:
    """A run: `Trainer(config).fit()`.

    `model` trains that model, in place, instead of building the config's; `tokenizer`, `source` and `eval_source` likewise take the place of
    what the config names (`eval_source` answers `batch(0, rows)` for rows below its `n_rows`). A source needs `vocab_size` from `model`.

    >>> import tempfile
    >>> config = TrainConfig(
    ...     out_dir=tempfile.mkdtemp(), vocab_size=260, model={"width": 8, "n_heads": 1, "n_layers": 1}, context=8,
    ...     batch_size=2, total_steps=2, progress=False,
    ... )
    >>> len(Trainer(config).fit().losses)
    2

    Raises (from `fit`): ValueError and FileNotFoundError for what the config names and is not there or does not fit; NonFiniteError when the
        loss or gradient stops being finite; OSError when a checkpoint cannot be written.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Transformer | None = None,
        *,
        tokenizer: Any = None,
        source: BatchSource | None = None,
        eval_source: Any = None,
    ) -> None:
        if source is not None and model is None:
            raise ValueError(
                "a source of its own needs a model of its own: the config cannot know the vocabulary; pass model"
            )
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.eval_source = eval_source
        self.folder = Path(config.out_dir)
        self.checkpoints = self.folder / "checkpoints"

    def fit(self) -> TrainResult:
        """Train to total_steps, or to a signal, and return the result; goes on from a checkpoint as `resume` says."""
        config = self.config
        with processes(config.device, config.parallel) as place, _matmul_precision(config.precision):
            devices = [place.device] if place.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                self._set_up(place)
                with StopRequests() as stop, contextlib.closing(self._start_report()) as self.report:
                    return self._train(stop)

    # Setting up

    def _set_up(self, place: Place) -> None:
        config = self.config
        self.place = place
        prepared = self._prepare()
        self.source, self.tokenizer = prepared.source, prepared.tokenizer
        self.eval_source, self.eval_rows = prepared.eval_source, prepared.eval_rows
        self.micro_batch, self.n_micro = self._micro_batches()
        self.rows = (
            np.arange(config.batch_size).reshape(self.n_micro, place.world, self.micro_batch)[:, place.rank].ravel()
        )
        if self.model is None:
            architecture = config.model_config(prepared.vocab_size)
            self.model = Transformer(architecture, torch.Generator().manual_seed(config.seed))
        self.model.to(place.device).train()
        if config.activation_checkpointing:
            checkpoint_activations(self.model)
        self.objective = Objective(
            self.model,
            label_smoothing=config.label_smoothing,
            z_loss=config.z_loss,
            chunk_tokens=config.loss_chunk_tokens,
            compiled=config.compile and place.device.type == "cuda",
        )
        if config.compile and place.mode != "fsdp":
            self.objective.compile_hidden()
        elif config.compile:
            for block in self.model.blocks:
                block.compile()
        self.spread = spread(self.objective, place, config.precision)
        self.optimizer = self._make_optimizer()
        self.scaler = torch.amp.GradScaler(place.device.type) if config.precision == "fp16" else None
        self.losses: list[float] = []
        self.step = 0
        self.newest: Path | None = None
        self._ready: tuple[int, Batch] | None = None
        self._source_state: dict[str, Any] | None = None
        self._waiting: tuple[int, dict[str, float], _Reading] | None = None
        if place.is_first:
            ckpt.remove_leftovers(self.checkpoints, config.keep_checkpoints)
        place.wait()
        self._resume()

    def _prepare(self) -> Prepared:
        """The first process writes tokenizer and token files; the others then find them."""
        if self.source is not None:
            rows = min(self.config.eval_rows, self.eval_source.n_rows) if self.eval_source is not None else 0
            vocab_size = self.model.config.vocab_size
            return Prepared(self.source, self.eval_source, rows, vocab_size, self.tokenizer)
        failure = None
        prepared = None
        if self.place.is_first:
            try:
                prepared = prepare(self.config, self.tokenizer)
            except (ValueError, OSError) as error:
                failure = error
        failure = self.place.tell(failure)
        if failure is not None:
            raise failure
        return prepared or prepare(self.config, self.tokenizer)

    def _micro_batches(self) -> tuple[int, int]:
        """(rows of a micro-batch, micro-batches per step) of each process."""
        batch_size, world = self.config.batch_size, self.place.world
        if batch_size % world:
            raise ValueError(f"batch_size must be a multiple of the {world} processes, got {batch_size}")
        micro_batch = self.config.micro_batch or batch_size // world
        if batch_size % (micro_batch * world):
            raise ValueError(
                f"micro_batch times {world} processes must divide batch_size={batch_size}, got {micro_batch}; "
                f"{batch_size // world} would do without accumulation"
            )
        return micro_batch, batch_size // (micro_batch * world)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        groups = parameter_groups(self.model, config.weight_decay, muon=config.optimizer == "muon")
        if config.optimizer == "adamw":
            return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
        return Muon(
            groups, lr=config.lr, momentum=config.momentum, scale=config.muon_scale, betas=config.betas, eps=config.eps,
            process_group=dist.group.WORLD if self.place.mode == "ddp" else None,
        )  # fmt: skip

    def _start_report(self) -> "Reporter | _Silence":
        if not self.place.is_first:
            return _Silence()
        config = self.config
        flops = accounting.flops_per_token(self.model.config, config.context, formula="nanogpt")
        return Reporter(
            self.folder, first_step=self.step, total_steps=config.total_steps, flops_per_token=flops,
            peak_flops=_peak_flops(self.place, config.precision), progress=config.progress,
            tensorboard=config.tensorboard, log_every=config.log_every,
        )  # fmt: skip

    def _resume(self) -> None:
        config = self.config
        if config.resume == "never":
            return
        path = ckpt.latest_checkpoint(self.checkpoints) if config.resume == "auto" else Path(config.resume)
        if path is None:
            return
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        loaded = ckpt.load_checkpoint(path, self.model, self.optimizer, device=self.place.device)
        for group, own in zip(self.optimizer.param_groups, options):  # this config's settings, not the checkpoint's
            group.update(own)
        self.step, self.newest = loaded.step, path
        self.losses = loaded.extra["losses"].tolist()
        self.source.load_state(loaded.extra["source"])
        if self.scaler is not None and loaded.extra.get("scaler"):
            self.scaler.load_state_dict(loaded.extra["scaler"])

    # The loop

    def _train(self, stop: StopRequests) -> TrainResult:
        config = self.config
        result = TrainResult(self.model, self.tokenizer, self.step, self.losses, checkpoint=self.newest)
        begin = time.perf_counter()
        first_step = self.step
        self.report.start_clock(self._tokens())
        while self.step < config.total_steps and not result.interrupted:
            result.interrupted = self._train_step(stop.requested)
            last = self.step == config.total_steps
            paused = False
            if config.eval_every and self.eval_rows and (last or self.step % config.eval_every == 0):
                result.eval_losses.append((self.step, self._evaluate()))
                paused = True
            if config.sample_every and self.tokenizer is not None and (last or self.step % config.sample_every == 0):
                result.samples.append((self.step, self._sample()))
                paused = True
            if last or result.interrupted or (config.save_every and self.step % config.save_every == 0):
                self._save()
                paused = True
            if paused:
                self.report.start_clock(self._tokens())
            if self.step == first_step + 1:
                gc.collect()
                gc.freeze()  # what lives now lives to the end: collections need not look at it again
        self._flush()
        gc.unfreeze()
        result.steps, result.checkpoint, result.seconds = self.step, self.newest, time.perf_counter() - begin
        self.model.eval()
        if result.interrupted:
            self.report.say(f"stopped at step {self.step}; the same command goes on from {self.newest}")
        return result

    def _train_step(self, stop: bool) -> bool:
        """One optimizer step; whether any process wants to stop."""
        config, place = self.config, self.place
        number = self.step + 1
        torch.manual_seed(((config.seed * 1_000_003 + number) * 4099 + place.rank) % 2**63)
        batch = self._take(self.step)
        n_targets = place.sum((batch.targets != IGNORED).sum().float()).clamp(min=1)
        sums = torch.zeros(3, device=place.device)
        for index in range(self.n_micro):
            micro = batch.rows(index * self.micro_batch, (index + 1) * self.micro_batch)
            is_last = index == self.n_micro - 1
            with exchanging_gradients(self.spread, place, now=is_last):
                with self._autocast():
                    loss, cross_entropy = self.spread(micro, place.world / n_targets, 1 / self.n_micro)
                sums[0] += loss.detach()
                sums[1] += cross_entropy
                if is_last:
                    sums[2] = float(stop)
                    seen = _Reading(place.sum(sums))
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        if place.device.type == "cuda":
            self._prefetch(number)
        norm = self._clip()
        total, cross_entropy, stops = seen.values()
        self._flush()
        if not np.isfinite(total):
            self._stop_for("the loss", number, batch)
        self._update(number, norm)
        self.step = number
        mean_loss = float(np.float32(cross_entropy) / np.float32(n_targets.item()))
        self.losses.append(mean_loss)
        record = {"loss": mean_loss, "lr": self.optimizer.param_groups[0]["lr"]}
        if abs(total / place.world - mean_loss) > 1e-6:
            record["total"] = total / place.world
        self._waiting = (number, record, norm)
        if place.device.type != "cuda":
            self._flush()
        return stops > 0

    def _clip(self) -> "_Reading":
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        return _Reading(clip_gradients(self.model.parameters(), self.config.clip_norm).float())

    def _update(self, number: int, norm: "_Reading") -> None:
        """Learning rate, optimizer step, gradients dropped."""
        config = self.config
        if not norm.is_pending and self.scaler is None and not np.isfinite(norm.values()):
            self._stop_for("the gradient", number, None)
        for group in self.optimizer.param_groups:
            largest = config.adamw_lr if config.adamw_lr is not None and not group.get("muon", True) else config.lr
            group["lr"] = _scheduled(config, number, largest)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self._average_router_biases()

    def _average_router_biases(self) -> None:
        """Balanced routers move their biases by what their own process saw; keep the processes together."""
        moe = self.model.config.moe
        if self.place.world > 1 and moe is not None and moe.bias_balancing:
            for layer in self.model.moe_layers():
                self.place.sum(layer.choice_bias).div_(self.place.world)

    def _flush(self) -> None:
        """Report the step whose gradient norm has meanwhile arrived."""
        if self._waiting is None:
            return
        (number, record, norm), self._waiting = self._waiting, None
        record["grad_norm"] = float(norm.values())
        if self.scaler is None and not np.isfinite(record["grad_norm"]):
            self._stop_for("the gradient", number, None)
        self.report.step(number, record, self._tokens())

    # Data

    def _tokens(self) -> int:
        return self.step * self.config.batch_size * self.config.context

    def _take(self, step: int) -> Batch:
        if self._ready is not None and self._ready[0] == step:
            batch, self._ready = self._ready[1], None
            return batch
        return self._place_batch(self.source.batch(step, self.rows))

    def _prefetch(self, step: int) -> None:
        """Read the next batch while the GPU works on this one."""
        if step < self.config.total_steps:
            self._source_state = self.source.state()
            self._ready = (step, self._place_batch(self.source.batch(step, self.rows)))

    def _place_batch(self, batch: Batch) -> Batch:
        if self.place.device.type == "cuda":
            batch = batch.pin()
        return batch.to(self.place.device, non_blocking=True)

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = WORK_DTYPES.get(self.config.precision)
        if dtype is None or self.place.mode == "fsdp":  # FSDP2 casts the weights it gathers
            return contextlib.nullcontext()
        return torch.autocast(self.place.device.type, dtype=dtype)

    # Between steps

    @torch.no_grad()
    def _evaluate(self) -> float:
        """Mean cross-entropy over the evaluation rows, in nats per token."""
        self._flush()
        place, micro = self.place, self.micro_batch
        chosen = np.linspace(0, self.eval_source.n_rows - 1, self.eval_rows).astype(np.int64)
        n_rounds = -(-len(chosen) // (micro * place.world))
        sums = torch.zeros(2, device=place.device)
        with _evaluating(self.spread):
            for index in range(n_rounds):
                start = (index * place.world + place.rank) * micro
                rows = chosen[start : start + micro]
                batch = self._place_batch(self.eval_source.batch(0, rows if len(rows) else chosen[:1]))
                with self._autocast():
                    _, cross_entropy = self.spread(batch)
                if len(rows):  # a process without rows left runs along, as FSDP needs, and counts nothing
                    sums[0] += cross_entropy
                    sums[1] += (batch.targets != IGNORED).sum()
        total, count = place.sum(sums).tolist()
        loss = total / max(1, count)
        if place.is_first:
            self.report.write({"step": self.step, "eval_loss": loss})
            self.report.say(f"step {self.step}: evaluation loss {loss:.4f} nats per token")
        return loss

    def _sample(self) -> str:
        """Text that the model writes, on the first process."""
        from llmcore.generate import generate

        self._flush()
        config, text = self.config, ""
        if self.place.is_first:
            generator = torch.Generator(self.place.device).manual_seed(config.seed * 1_000_003 + self.step)
            prompt = torch.tensor(self.tokenizer.encode(config.sample_prompt) or [0], device=self.place.device)
            room = min(config.sample_tokens, max(1, self.model.config.context - len(prompt)))
            with _evaluating(self.model), torch.no_grad(), self._autocast():
                ids = generate(self.model, prompt, room, temperature=config.sample_temperature, generator=generator)
            text = self.tokenizer.decode(ids.tolist())
            self.report.write({"step": self.step, "sample": text})
            self.report.say(f"step {self.step}: {text!r}")
        return text

    def _save(self) -> None:
        self._flush()
        prefetched = self._ready is not None
        extra = {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "source": self._source_state if prefetched else self.source.state(),
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "config": self.config.to_dict(),
        }
        path = ckpt.step_path(self.checkpoints, self.step)
        try:
            ckpt.save_checkpoint(
                self.model, self.optimizer, self.step, path, extra=extra, sharded=self.place.mode == "fsdp"
            )
        except OSError as error:
            kept = (
                f"the last good checkpoint is {str(self.newest)!r}" if self.newest else "there is no earlier checkpoint"
            )
            raise OSError(error.errno, f"{error.strerror}; {kept}; make room and run again") from error
        self.newest = path
        if self.place.is_first:
            ckpt.remove_leftovers(self.checkpoints, self.config.keep_checkpoints)
        self.place.wait()

    def _stop_for(self, what: str, number: int, batch: Batch | None) -> None:
        """Raise NonFiniteError naming the first bad tensor: of the parameters, else of the forward pass, else of the gradients."""
        found = diagnosis.first_bad_parameter(self.model)
        if found is None and batch is not None:
            torch.manual_seed(((self.config.seed * 1_000_003 + number) * 4099 + self.place.rank) % 2**63)
            for index in range(self.n_micro):
                micro = batch.rows(index * self.micro_batch, (index + 1) * self.micro_batch)
                with self._autocast():
                    found = found or diagnosis.first_bad_output(self.spread, self.model, micro)
            found = found or "the loss itself, of finite hidden states"
        found = found or diagnosis.first_bad_gradient(self.model)
        if self.place.world > 1:
            everywhere: list[str | None] = [None] * self.place.world
            dist.all_gather_object(everywhere, found)
            found = next((one for one in everywhere if one and not one.startswith("the loss")), found)
        raise diagnosis.NonFiniteError(what, number, found or "unknown", self.newest)


class _Reading:
    """A small tensor on its way to the host."""

    def __init__(self, tensor: Tensor) -> None:
        self.is_pending = tensor.is_cuda
        if self.is_pending:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._host = tensor.clone()

    def values(self) -> Any:
        """Its numbers, once they have arrived."""
        if self.is_pending:
            self._arrived.synchronize()
            self.is_pending = False
        return self._host.tolist()


class _Silence:
    """The report of a process that is not the first."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    module.eval()
    try:
        yield
    finally:
        module.train()


@contextlib.contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _scheduled(config: TrainConfig, number: int, largest: float) -> float:
    options = {"decay_steps": config.decay_steps} if config.schedule == "wsd" else {}
    schedule = getattr(schedules, f"{config.schedule}_schedule")
    smallest = config.min_lr * (largest / config.lr if config.lr else 1)
    return schedule(number, largest, smallest, config.warmup_steps, config.total_steps, **options)


def _peak_flops(place: Place, precision: str) -> float | None:
    """The published peak of all devices together, None where none is published."""
    if place.device.type != "cuda":
        return None
    try:
        hardware = accounting.find_hardware(torch.cuda.get_device_name(place.device))
    except ValueError:
        return None
    kind = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "tf32": "tf32"}[precision]
    return hardware.flops[kind] * place.world if kind in hardware.flops else None
