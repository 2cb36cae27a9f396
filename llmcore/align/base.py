"""The loop that the trainers of this package share: updates, log, evaluation, checkpoints, exact resuming.

What makes a resumed run equal the uninterrupted one to the last bit (on CPU): the rows of a step and the randomness of
its rollouts depend on the seed and the step only; what is made once and used for several steps, a rollout or old
log-probabilities, is in the checkpoint.

Left out on purpose: several processes; `SFTTrainer` has them, being a `llmcore.train.Trainer`.

Taught in: 07_dpo_grpo.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from llmcore.optim import AdamW, clip_gradients, parameter_groups, schedules
from llmcore.train import checkpoint as ckpt
from llmcore.train import diagnosis, setup
from llmcore.train.interrupts import StopRequests
from llmcore.train.parallel import Place, pick_device
from llmcore.train.report import Reporter


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """What every trainer here needs to know.

    Raises: ValueError naming the setting, its value and what to do.
    """

    out_dir: str = "runs/align"
    """Folder of the run: checkpoints, log.jsonl, TensorBoard files."""
    total_steps: int = 100
    """Optimizer steps."""
    batch_size: int = 32
    """Pairs, or responses, of one optimizer step."""
    micro_batch: int | None = None
    """How many of them go through the model at once; None for all. The gradients are the same."""

    lr: float = 1e-4
    """Largest learning rate."""
    min_lr: float = 0.0
    """Last learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps until the largest learning rate."""
    weight_decay: float = 0.0
    """On matrices."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two averages."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip_norm: float | None = 1.0
    """Largest norm of all gradients together; None leaves them."""

    seed: int = 0
    """Of data order, rollouts and dropout."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of matrix products; weights, log-probabilities and optimizer stay float32."""

    eval_every: int = 0
    """Steps between evaluations, one before the first step and one at the end included; 0 for none."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves at the end and on interruption only."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    resume: str = "auto"
    """auto: from the newest checkpoint in out_dir if there is one; never; or the path of a checkpoint."""
    log_every: int = 1
    """Steps between lines of the log."""
    progress: bool = True
    """Show a progress bar, or a line now and then where there is no terminal."""
    tensorboard: bool = False
    """Also write TensorBoard files."""

    def __post_init__(self) -> None:
        for name in ("total_steps", "batch_size", "keep_checkpoints", "log_every"):
            at_least(self, name, 1)
        for name in ("eval_every", "save_every", "seed", "warmup_steps", "lr", "weight_decay"):
            at_least(self, name, 0)
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint)
            if choices and all(isinstance(choice, str) for choice in choices) and getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ValueError(
                f"micro_batch must be at least 1, got {self.micro_batch}; None takes the whole batch at once"
            )
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr must be in [0, lr={self.lr}], got {self.min_lr}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(
                f"clip_norm must be positive, got {self.clip_norm}; to leave gradients as they are pass None"
            )

    def replace(self, **changes: Any) -> "AlignConfig":
        """A copy with these settings changed, checked anew."""
        return replace(self, **changes)


def at_least(config: Any, name: str, least: int | float) -> None:
    """Raise ValueError when a setting is below `least`."""
    if not getattr(config, name) >= least:
        raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")


@dataclass
class AlignResult:
    """What `fit` gives back."""

    model: nn.Module
    """The trained model, in evaluation mode."""
    steps: int
    """Optimizer steps done, those before resuming included."""
    records: list[dict[str, float]]
    """The figures of each step, those before resuming included; entry 0 is step 1."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """The figures of each evaluation with its "step", those before resuming included."""
    checkpoint: Path | None = None
    """The newest checkpoint."""
    interrupted: bool = False
    """Whether a signal ended the run early; `fit` with the same out_dir goes on."""
    seconds: float = 0.0
    """Time of this call's loop."""


class AlignTrainer:
    """The loop; what is learned, and from what, a subclass says in `_losses`.

    Only parameters with requires_grad are trained, so a model with adapters keeps its base.
    """

    shown: tuple[str, ...] = ()
    """Figures beside the loss that the progress bar shows."""

    def __init__(self, config: AlignConfig, model: nn.Module) -> None:
        self.config, self.model = config, model
        self.checkpoints = Path(config.out_dir) / "checkpoints"
        self.step, self.tokens = 0, 0
        self._is_prepared = False

    @property
    def trained(self) -> nn.Module:
        """The module whose trainable parameters are updated, and that checkpoints hold."""
        return self.model

    def fit(self) -> AlignResult:
        """Train to total_steps, or to a signal, and return the result; goes on from a checkpoint as `resume` says."""
        with self.running(), StopRequests() as stop:
            return self._train(stop)

    @contextlib.contextmanager
    def running(self) -> Iterator["AlignTrainer"]:
        """Set everything up, resume, open the log; and close it at the end. For a loop of your own, call `train_step` inside."""
        device = pick_device(self.config.device)
        self.place = Place(0, 1, device, "one")
        with (
            setup.matmul_precision(self.config.precision),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            self._set_up()
            report = Reporter(
                self.config.out_dir,
                first_step=self.step,
                total_steps=self.config.total_steps,
                progress=self.config.progress,
                tensorboard=self.config.tensorboard,
                log_every=self.config.log_every,
                shown=self.shown,
            )
            with contextlib.closing(report) as self.report:
                yield self

    def _set_up(self) -> None:
        self.trained.to(self.place.device)
        if self.place.device.type == "cpu":
            setup.keep_freed_memory()
        if not self._is_prepared:
            self._prepare()
            self._is_prepared = True
        self.trained.train()
        self.parameters = [parameter for parameter in self.trained.parameters() if parameter.requires_grad]
        groups = parameter_groups(self.trained, self.config.weight_decay)
        self.optimizer = AdamW(groups, lr=self.config.lr, betas=self.config.betas, eps=self.config.eps)
        self.step, self.tokens, self.records, self.evaluations = 0, 0, [], []
        self.newest: Path | None = None
        self._resume()
        ckpt.set_aside(self.checkpoints, self.step)
        ckpt.remove_leftovers(self.checkpoints, self.config.keep_checkpoints)

    def _resume(self) -> None:
        config = self.config
        path = ckpt.latest_checkpoint(self.checkpoints) if config.resume == "auto" else Path(config.resume)
        if config.resume == "never" or path is None:
            return
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        loaded = ckpt.load_checkpoint(path, self.trained, self.optimizer, device=self.place.device)
        for group, own in zip(self.optimizer.param_groups, options):  # this config's settings, not the checkpoint's
            group.update(own)
        self.step, self.newest = loaded.step, path
        self.tokens, self.records = loaded.extra["tokens"], loaded.extra["records"]
        self.evaluations = loaded.extra["evaluations"]
        self._load_state(loaded.extra["state"])

    def _train(self, stop: StopRequests) -> AlignResult:
        config = self.config
        result = AlignResult(self.model, self.step, self.records, self.evaluations, self.newest)
        begin = time.perf_counter()
        if self.step == 0 and config.eval_every:
            self._evaluate()
        self.report.start_clock(self.tokens)
        while self.step < config.total_steps and not result.interrupted:
            self.train_step()
            result.interrupted = stop.requested
            if self._is_due(config.eval_every):
                self._evaluate()
            if self._is_due(config.save_every) or result.interrupted or self.step == config.total_steps:
                self._save()
        self.trained.eval()
        result.steps, result.checkpoint, result.seconds = self.step, self.newest, time.perf_counter() - begin
        if result.interrupted:
            self.report.say(f"stopped after step {self.step}; the same command goes on from {str(self.newest)!r}")
        return result

    def _is_due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.total_steps)

    def train_step(self) -> dict[str, float]:
        """One optimizer step; its figures."""
        number = self.step + 1
        setup.seed_step(self.config, number, self.place)
        figures: dict[str, Tensor | float] = {"loss": 0.0}
        for loss, parts in self._losses(number):
            if loss.requires_grad:
                loss.backward()
            figures["loss"] = figures["loss"] + loss.detach()
            for name, value in parts.items():
                figures[name] = figures.get(name, 0.0) + value
        record = {name: float(value) for name, value in figures.items()}
        if not math.isfinite(record["loss"]):
            self._stop_for("the loss", number)
        record["lr"] = self._set_learning_rate(number)
        record["grad_norm"] = float(clip_gradients(self.parameters, self.config.clip_norm))
        if not math.isfinite(record["grad_norm"]):
            self._stop_for("the gradient", number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step = number
        self.records.append(record)
        self.report.step(number, record, self.tokens)
        return record

    def _set_learning_rate(self, number: int) -> float:
        config = self.config
        schedule = getattr(schedules, f"{config.schedule}_schedule")
        lr = schedule(
            number, config.lr, config.min_lr, min(config.warmup_steps, config.total_steps), config.total_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _evaluate(self) -> None:
        self.trained.eval()
        try:
            found = self._evaluation()
        finally:
            self.trained.train()
        if found:
            self.evaluations.append({"step": self.step, **found})
            self.report.write({"step": self.step, **{f"eval_{name}": value for name, value in found.items()}})
            self.report.say(
                f"step {self.step}: evaluation " + ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            )
        self.report.start_clock(self.tokens)

    def _save(self) -> None:
        path = ckpt.step_path(self.checkpoints, self.step)
        extra = {
            "tokens": self.tokens, "records": self.records, "evaluations": self.evaluations, "state": self._state(),
        }  # fmt: skip
        try:
            ckpt.save_checkpoint(self.trained, self.optimizer, self.step, path, extra=extra)
        except OSError as error:
            kept = f"the last good checkpoint is {str(self.newest)!r}" if self.newest else "there is no earlier one"
            raise OSError(error.errno, f"{error.strerror}; {kept}; make room and run again") from error
        self.newest = path
        ckpt.remove_leftovers(self.checkpoints, self.config.keep_checkpoints)
        self.report.start_clock(self.tokens)

    def _stop_for(self, what: str, number: int) -> None:
        found = diagnosis.first_bad_parameter(self.trained) or diagnosis.first_bad_gradient(self.trained)
        raise diagnosis.NonFiniteError(what, number, found or "the loss itself", self.newest)

    def _micro_batches(self, total: int) -> Iterator[slice]:
        """Consecutive slices of at most micro_batch of `total` rows."""
        size = self.config.micro_batch or max(total, 1)
        for start in range(0, total, size):
            yield slice(start, min(start + size, total))

    def _generator(self, number: int, purpose: int = 0) -> torch.Generator:
        """Randomness of update `number`, the same whenever it is asked for."""
        seed = ((self.config.seed * 1_000_003 + number) * 4099 + 17 * purpose + 1) % 2**63
        return torch.Generator(self.place.device).manual_seed(seed)

    # What a subclass says.

    def _prepare(self) -> None:
        """Make what training needs, the first time; the model is on its device and still untrained."""

    def _losses(self, number: int) -> Iterator[tuple[Tensor, dict[str, Tensor | float]]]:
        """(loss, figures) of each micro-batch of update `number`; both add up over micro-batches to those of the batch."""
        raise NotImplementedError

    def _evaluation(self) -> dict[str, float]:
        """Figures on held-out rows; none when there are no such rows."""
        return {}

    def _state(self) -> dict[str, Any]:
        """What checkpoints hold besides model and optimizer."""
        return {}

    def _load_state(self, state: dict[str, Any]) -> None:
        """Go on where `_state` was taken."""


def rows_of_step(n_rows: int, count: int, step: int, seed: int) -> np.ndarray:
    """Indices of the `count` rows of a step (steps count from 0), each row once an epoch, every epoch in another order.

    >>> sorted(rows_of_step(4, 2, 0, seed=0).tolist() + rows_of_step(4, 2, 1, seed=0).tolist())
    [0, 1, 2, 3]
    """
    places = np.arange(step * count, (step + 1) * count)
    epochs, offsets = places // n_rows, places % n_rows
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(n_rows) for epoch in set(epochs.tolist())}
    return np.array([int(orders[epoch][offset]) for epoch, offset in zip(epochs.tolist(), offsets.tolist())])
