"""`Trainer`: the training loop.

What makes a resumed run equal the uninterrupted one to the last bit (on CPU): the rows of a batch, dropout and samples depend on the
seed and the step only, the optimizer's state and a stream's place are in the checkpoint, and the log is cut back to the checkpoint.
The batch of a step is the same whatever the number of devices.

Nothing in the loop waits for a GPU but one look at the loss, which is ready while the backward pass still runs: so a loss that is not
finite stops the run before it has touched the weights.
"""

import contextlib
import gc
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from llmcore.data.batches import Batch, BatchSource
from llmcore.model.transformer import Transformer
from llmcore.optim import clip_gradients
from llmcore.train import checkpoint as ckpt
from llmcore.train import diagnosis, setup
from llmcore.train.config import TrainConfig
from llmcore.train.evaluation import evaluation_loss, sample_text
from llmcore.train.interrupts import StopRequests
from llmcore.train.loss import IGNORED
from llmcore.train.parallel import Place, exchanging_gradients, processes, spread
from llmcore.train.prepare import Prepared, prepare
from llmcore.train.start import add_adapters, save_adapters, start_model


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

    `model` trains that model, in place, instead of building the config's; `tokenizer`, `source` and `eval_source` likewise stand for
    what the config names (an `eval_source` also has `n_rows`, and answers `batch(0, rows)` for rows below that). For a loop of your
    own: `with trainer.running(): trainer.train_step()`.

    >>> import tempfile
    >>> config = TrainConfig(
    ...     out_dir=tempfile.mkdtemp(), vocab_size=260, model={"width": 8, "n_heads": 1, "n_layers": 1}, context=8,
    ...     batch_size=2, total_steps=2, progress=False,
    ... )
    >>> len(Trainer(config).fit().losses)
    2

    Raises (from `fit`): ValueError and FileNotFoundError for what the config names and is not there or does not fit; NonFiniteError
        when loss or gradient stop being finite; OSError when a checkpoint cannot be written.
    """

    place: Place
    """Which process this is, while it runs."""
    prepared: Prepared
    """Its data, while it runs and after."""
    step: int = 0
    """Optimizer steps done."""

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
            raise ValueError("with a source, pass a model too: the config does not know the source's vocabulary")
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.source = source
        self.eval_source = eval_source
        self.checkpoints = Path(config.out_dir) / "checkpoints"

    def fit(self) -> TrainResult:
        """Train to total_steps, or to a signal, and return the result; goes on from a checkpoint as `resume` says."""
        with self.running(), StopRequests() as stop:
            try:
                return self._train(stop)
            finally:
                gc.unfreeze()

    @contextlib.contextmanager
    def running(self) -> Iterator["Trainer"]:
        """Join the other processes, set everything up, resume, open the log; and close all that at the end."""
        config = self.config
        with processes(config.device, config.parallel) as place, setup.matmul_precision(config.precision):
            devices = [place.device] if place.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                self._set_up(place)
                with contextlib.closing(setup.start_report(config, self.model, place, self.step)) as self.report:
                    yield self

    def _set_up(self, place: Place) -> None:
        config = self.config
        self.place = place
        if place.device.type == "cpu":
            setup.keep_freed_memory()
        self.micro_batch, self.n_micro = setup.micro_batches(config, place.world)
        order = np.arange(config.batch_size).reshape(self.n_micro, place.world, self.micro_batch)
        self.rows = order[:, place.rank].ravel()
        prepared = self.prepared = self._prepare()
        self.source, self.tokenizer = prepared.source, prepared.tokenizer
        self.eval_source, self.eval_rows = prepared.eval_source, prepared.eval_rows
        if self.model is None:
            self.model = start_model(config, prepared.vocab_size)
        if config.lora:
            add_adapters(config, self.model)
        self.model.to(place.device).train()
        self.spread = spread(setup.make_objective(config, self.model, place), place, config.precision)
        self.parameters = list(self.model.parameters())
        self.optimizer = setup.make_optimizer(config, self.model, place)
        self.scaler = torch.amp.GradScaler(place.device.type) if config.precision == "fp16" else None
        self.step, self.losses = 0, []
        self.newest: Path | None = None
        self._ready: tuple[int, Batch, dict[str, Any]] | None = None
        self._waiting: tuple[int, dict[str, float], _Reading] | None = None
        self._resume()
        place.wait()
        if place.is_first:
            ckpt.set_aside(self.checkpoints, self.step)
            ckpt.remove_leftovers(self.checkpoints, config.keep_checkpoints)
        place.wait()

    def _prepare(self) -> Prepared:
        """Data and tokenizer; the first process writes the files, the others then find them."""
        if self.source is not None:
            rows = 0 if self.eval_source is None else min(self.config.eval_rows, self.eval_source.n_rows)
            return Prepared(self.source, self.eval_source, rows, self.model.config.vocab_size, self.tokenizer)
        prepared, failure = None, None
        if self.place.is_first:
            try:
                prepared = prepare(self.config, self.tokenizer)
            except (ValueError, OSError) as error:
                failure = error
        failure = self.place.tell(failure)
        if failure is not None:
            raise failure
        return prepared or prepare(self.config, self.tokenizer)

    def _resume(self) -> None:
        config = self.config
        path = ckpt.latest_checkpoint(self.checkpoints) if config.resume == "auto" else Path(config.resume)
        if config.resume == "never" or path is None:
            return
        groups = self.optimizer.param_groups
        options = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        loaded = ckpt.load_checkpoint(path, self.model, self.optimizer, device=self.place.device)
        for group, own in zip(self.optimizer.param_groups, options):  # this config's settings, not the checkpoint's
            group.update(own)
        self.step, self.newest = loaded.step, path
        self.losses = loaded.extra["losses"].tolist()
        self.source.load_state(loaded.extra["source"])
        if self.scaler is not None and loaded.extra["scaler"]:
            self.scaler.load_state_dict(loaded.extra["scaler"])

    def _train(self, stop: StopRequests) -> TrainResult:
        config = self.config
        result = TrainResult(self.model, self.tokenizer, self.step, self.losses, checkpoint=self.newest)
        begin, first_step = time.perf_counter(), self.step
        self.report.start_clock(self._n_tokens())
        while self.step < config.total_steps and not result.interrupted:
            result.interrupted = self.train_step(stop.requested)
            evaluates, samples, saves = (
                self._is_due(every) for every in (config.eval_every, config.sample_every, config.save_every)
            )
            if evaluates and self.eval_rows:
                result.eval_losses.append((self.step, self._evaluate()))
            if samples and self.tokenizer is not None:
                result.samples.append((self.step, self._sample()))
            if saves or result.interrupted or self.step == config.total_steps:
                self._save()
            if evaluates or samples or saves:
                self.report.start_clock(self._n_tokens())
            if self.step == first_step + 1:
                gc.collect()
                gc.freeze()  # what lives now lives to the end: collections need not look at it again
        self._flush()
        self.model.eval()
        result.steps, result.checkpoint, result.seconds = self.step, self.newest, time.perf_counter() - begin
        if result.interrupted:
            self.report.say(f"stopped after step {self.step}; the same command goes on from {str(self.newest)!r}")
        return result

    def _is_due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.total_steps)

    def train_step(self, stop: bool = False) -> bool:
        """One optimizer step; whether any process asked to stop after it."""
        config, place = self.config, self.place
        number = self.step + 1
        setup.seed_step(config, number, place)
        batch = self._take(self.step)
        n_targets = place.sum((batch.targets != IGNORED).sum().float()).clamp(min=1)
        sums = torch.zeros(3, device=place.device)
        for index, micro in enumerate(self._micro(batch)):
            is_last = index == self.n_micro - 1
            with exchanging_gradients(self.spread, place, now=is_last):
                with setup.autocast(config, place):
                    loss, cross_entropy = self.spread(micro, place.world / n_targets, 1 / self.n_micro)
                sums += torch.stack((loss.detach() / place.world, cross_entropy / n_targets, sums[2]))
                if is_last:
                    sums[2] = float(stop)
                    seen = _Reading(place.sum(sums))
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
        self._prefetch(number)
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = _Reading(clip_gradients(self.parameters, config.clip_norm))
        total, mean_loss, stops = seen.values()
        self._flush()
        if not math.isfinite(total):
            self._stop_for("the loss", number, batch)
        if not norm.is_pending and self.scaler is None and not math.isfinite(norm.values()):
            self._stop_for("the gradient", number, None)
        self._update(number)
        self.step = number
        self.losses.append(mean_loss)
        record = {"loss": mean_loss, "lr": self.optimizer.param_groups[0]["lr"]}
        if abs(total - mean_loss) > 1e-6 * abs(mean_loss):
            record["total"] = total
        self._waiting = (number, record, norm)
        if not norm.is_pending:
            self._flush()
        return stops > 0

    def _micro(self, batch: Batch) -> Iterator[Batch]:
        for start in range(0, len(batch.ids), self.micro_batch):
            yield batch.rows(start, start + self.micro_batch)

    def _update(self, number: int) -> None:
        setup.set_learning_rates(self.config, self.optimizer, number)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        moe = self.model.config.moe
        if self.place.world > 1 and moe is not None and moe.bias_balancing:
            for layer in self.model.moe_layers():  # each process moved them by what it saw: keep them together
                self.place.sum(layer.choice_bias).div_(self.place.world)

    def _flush(self) -> None:
        """Report the step whose gradient norm has meanwhile arrived."""
        if self._waiting is None:
            return
        (number, record, norm), self._waiting = self._waiting, None
        record["grad_norm"] = norm.values()
        if self.scaler is None and not math.isfinite(record["grad_norm"]):
            self._stop_for("the gradient", number, None)
        self.report.step(number, record, self._n_tokens())

    def _n_tokens(self) -> int:
        return self.step * self.config.batch_size * self.config.context

    def _take(self, step: int) -> Batch:
        """This process's rows of the batch of a step, on its device."""
        if self._ready is not None and self._ready[0] == step:
            batch, self._ready = self._ready[1], None
            return batch
        return self._load(self.source.batch(step, self.rows))

    def _prefetch(self, step: int) -> None:
        """Read the next batch while the GPU works on this one."""
        if self.place.device.type == "cuda" and step < self.config.total_steps:
            state = self.source.state()
            self._ready = (step, self._load(self.source.batch(step, self.rows)), state)

    def _load(self, batch: Batch) -> Batch:
        if self.place.device.type == "cuda":
            batch = batch.pin()
        return batch.to(self.place.device, non_blocking=True)

    def _evaluate(self) -> float:
        self._flush()
        with setup.autocast(self.config, self.place):
            loss = evaluation_loss(
                self.spread, self.eval_source, self.eval_rows, self.micro_batch, self.place, self._load
            )
        self.report.write({"step": self.step, "eval_loss": loss})
        self.report.say(f"step {self.step}: evaluation loss {loss:.4f} nats per token")
        return loss

    def _sample(self) -> str:
        """Text that the model writes, on the first process; empty on the others."""
        self._flush()
        if not self.place.is_first:
            return ""
        with setup.autocast(self.config, self.place):
            text = sample_text(self.model, self.tokenizer, self.config, self.step)
        self.report.write({"step": self.step, "sample": text})
        self.report.say(f"step {self.step}: {text!r}")
        return text

    def _save(self) -> None:
        self._flush()
        path = ckpt.step_path(self.checkpoints, self.step)
        extra = {
            "losses": torch.tensor(self.losses, dtype=torch.float64),
            "source": self.source.state() if self._ready is None else self._ready[2],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "config": self.config.to_dict(),
        }
        sharded = self.place.mode == "fsdp"
        try:
            ckpt.save_checkpoint(self.model, self.optimizer, self.step, path, extra=extra, sharded=sharded)
        except OSError as error:
            kept = f"the last good checkpoint is {str(self.newest)!r}" if self.newest else "there is no earlier one"
            raise OSError(error.errno, f"{error.strerror}; {kept}; make room and run again") from error
        self.newest = path
        if self.place.is_first:
            if self.config.lora:
                save_adapters(self.config, self.model)
            ckpt.remove_leftovers(self.checkpoints, self.config.keep_checkpoints)
        self.place.wait()

    def _stop_for(self, what: str, number: int, batch: Batch | None) -> NoReturn:
        """Raise NonFiniteError naming the first bad tensor: of the parameters, else of the forward pass, else of the gradients."""
        found = diagnosis.first_bad_parameter(self.model)
        if found is None and batch is not None:
            setup.seed_step(self.config, number, self.place)
            for micro in self._micro(batch):
                with setup.autocast(self.config, self.place):
                    found = found or diagnosis.first_bad_output(self.spread, self.model, micro)
        if found is None:
            found = diagnosis.first_bad_gradient(self.model)
        if self.place.world > 1:
            everywhere: list[str | None] = [None] * self.place.world
            dist.all_gather_object(everywhere, found)
            found = next((one for one in everywhere if one), None)
        raise diagnosis.NonFiniteError(what, number, found or "the loss itself", self.newest)


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
