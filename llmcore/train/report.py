"""What a run tells: a progress bar, a log with one JSON object per line, and TensorBoard files."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATE_STEPS = 20


class Reporter:
    """Takes one record per step and shows it; `rate` and `mfu` are over the last 20 steps.

    The log keeps exact numbers: a float is written so that reading it gives the same bits. `shown` names figures of the record that
    people see beside the loss.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        first_step: int,
        total_steps: int,
        flops_per_token: float = 0.0,
        peak_flops: float | None = None,
        progress: bool = True,
        tensorboard: bool = False,
        log_every: int = 1,
        shown: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.total_steps, self.log_every = total_steps, log_every
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.log_path = self.folder / "log.jsonl"
        trim_log(self.log_path, first_step)
        self._log = open(self.log_path, "a", encoding="utf-8")  # noqa: SIM115 (closed in `close`)
        self._ends: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS + 1)
        self._show = (
            (_Bar if sys.stdout.isatty() or _in_notebook() else _Lines)(first_step, total_steps, shown)
            if progress
            else None
        )
        self._board = _open_board(self.folder, first_step) if tensorboard else None

    def start_clock(self, tokens: int) -> None:
        """Count time from here (a step's time must not include evaluations and checkpoints)."""
        self._ends.clear()
        self._ends.append((time.perf_counter(), tokens))

    def step(self, step: int, record: dict[str, float], tokens: int) -> None:
        """One optimizer step is done; `tokens` counts all since the run began."""
        self._ends.append((time.perf_counter(), tokens))
        (start, before), (end, after) = self._ends[0], self._ends[-1]
        rate = (after - before) / (end - start) if end > start else 0.0
        record = {"step": step, **record, "tokens": tokens, "tokens_per_s": round(rate, 1)}
        if self.peak_flops:
            record["mfu"] = round(rate * self.flops_per_token / self.peak_flops, 4)
        if step % self.log_every == 0 or step == self.total_steps:
            self.write(record)
        if self._show is not None:
            self._show.step(step, record)

    def write(self, record: dict[str, Any]) -> None:
        """One line of the log; numbers also go to TensorBoard."""
        self._log.write(json.dumps(record) + "\n")
        self._log.flush()
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, record["step"])
            if "sample" in record:
                self._board.add_text("sample", record["sample"], record["step"])

    def say(self, text: str) -> None:
        """A line for the person watching."""
        if self._show is not None:
            self._show.say(text)

    def close(self) -> None:
        """Close bar and files."""
        self._log.close()
        if self._show is not None:
            self._show.close()
        if self._board is not None:
            self._board.close()


def read_log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a log, a last line that was cut off left out; empty when there is no log."""
    records = []
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                try:
                    records.append(json.loads(line))
                except ValueError:
                    break
    except FileNotFoundError:
        pass
    return records


def trim_log(path: str | os.PathLike[str], last_step: int) -> None:
    """Keep the records up to a step, so that a resumed run goes on where its checkpoint is; atomic."""
    path = Path(path)
    if not path.exists():
        return
    kept = [record for record in read_log(path) if record["step"] <= last_step]
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    os.replace(temporary, path)


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    return shell is not None and type(shell.get_ipython()).__name__ == "ZMQInteractiveShell"


def _shown(record: dict[str, float], names: Sequence[str]) -> dict[str, str]:
    shown = {"loss": f"{record['loss']:.3f}"} | {name: f"{record[name]:.3g}" for name in names if name in record}
    shown |= {"tok/s": f"{record['tokens_per_s']:,.0f}"}
    return shown | ({"MFU": f"{record['mfu']:.1%}"} if "mfu" in record else {})


class _Bar:
    """A progress bar with loss, tokens/s, MFU and time left."""

    def __init__(self, first_step: int, total_steps: int, names: Sequence[str] = ()) -> None:
        from tqdm.auto import tqdm

        self._names = names
        self._bar = tqdm(total=total_steps, initial=first_step, unit="step", dynamic_ncols=True, file=sys.stdout)

    def step(self, step: int, record: dict[str, float]) -> None:
        self._bar.set_postfix(_shown(record, self._names), refresh=False)
        self._bar.update()

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stdout)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line every twentieth of the run, for output that goes to a file."""

    def __init__(self, first_step: int, total_steps: int, names: Sequence[str] = ()) -> None:
        self._first, self._total, self._names = first_step, total_steps, names
        self._every = max(1, total_steps // 20)
        self._start = time.perf_counter()

    def step(self, step: int, record: dict[str, float]) -> None:
        if step % self._every and step != self._total:
            return
        each = (time.perf_counter() - self._start) / (step - self._first)
        shown = ", ".join(f"{name} {value}" for name, value in _shown(record, self._names).items())
        print(f"step {step}/{self._total}: {shown}, {each * (self._total - step):.0f} s left", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        pass


def _open_board(folder: Path, first_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)
