"""Learning-rate schedules: plain functions of the step.

All warm up from 0 at step 0 to max_lr at warmup_steps and stand at min_lr from total_steps on. An update numbered from 1
(as in `llmcore.train`) therefore never has learning rate 0 unless asked to.
"""

import math
from typing import Literal


def _check(step: int | float, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> None:
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    if not 0 <= min_lr <= max_lr:
        raise ValueError(f"learning rates must satisfy 0 <= min_lr <= max_lr, got min_lr={min_lr}, max_lr={max_lr}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(
            f"warmup_steps must be in 0..total_steps, got {warmup_steps} of {total_steps}; shorten the warm-up or train longer"
        )


def constant_schedule(step: int | float, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """max_lr after the warm-up, for ever; min_lr and total_steps are only checked.

    >>> [constant_schedule(step, 1.0, 0.0, 2, 4) for step in (0, 1, 2, 9)]
    [0.0, 0.5, 1.0, 1.0]

    Raises: ValueError for a negative step, min_lr above max_lr, or a warm-up longer than the run.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    return max_lr * min(1.0, step / warmup_steps) if warmup_steps else max_lr


def linear_schedule(step: int | float, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Warm-up, then a straight line from max_lr at warmup_steps to min_lr at total_steps.

    >>> [linear_schedule(step, 1.0, 0.0, 2, 6) for step in (1, 2, 4, 6, 7)]
    [0.5, 1.0, 0.5, 0.0, 0.0]

    Raises: ValueError for a negative step, min_lr above max_lr, or a warm-up longer than the run.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    return max_lr + (min_lr - max_lr) * (step - warmup_steps) / (total_steps - warmup_steps)


def cosine_schedule(step: int | float, max_lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> float:
    """Warm-up, then half a cosine from max_lr at warmup_steps to min_lr at total_steps.

    >>> [round(cosine_schedule(step, 1.0, 0.0, 2, 6), 4) for step in (1, 2, 3, 4, 6, 7)]
    [0.5, 1.0, 0.8536, 0.5, 0.0, 0.0]

    Raises: ValueError for a negative step, min_lr above max_lr, or a warm-up longer than the run.
    Source: SGDR, arXiv:1608.03983, eq. 5, one period; with linear warm-up as in GPT-3, arXiv:2005.14165, appendix B.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    done = (step - warmup_steps) / (total_steps - warmup_steps)
    return min_lr + (max_lr - min_lr) * (1 + math.cos(math.pi * done)) / 2


def wsd_schedule(
    step: int | float,
    max_lr: float,
    min_lr: float,
    warmup_steps: int,
    total_steps: int,
    decay_steps: int | None = None,
    decay: Literal["linear", "sqrt"] = "linear",
) -> float:
    """Warm-up, max_lr (stable), then a decay to min_lr over the last decay_steps; None decays over a tenth of the run.

    "linear" falls in a straight line, "sqrt" as 1 - sqrt(share of the decay that is done).

    >>> [wsd_schedule(step, 1.0, 0.0, 2, 10, decay_steps=4) for step in (1, 2, 6, 8, 10, 11)]
    [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]

    Raises: ValueError as the other schedules, and when warm-up and decay together are longer than the run.
    Source: MiniCPM, arXiv:2404.06395, section 4; the sqrt decay, arXiv:2405.18392.
    """
    _check(step, max_lr, min_lr, warmup_steps, total_steps)
    if decay_steps is None:
        decay_steps = min(-(-total_steps // 10), total_steps - warmup_steps)
    if not 0 <= decay_steps <= total_steps - warmup_steps:
        raise ValueError(
            f"decay_steps must be in 0..{total_steps - warmup_steps} (what the warm-up leaves of total_steps), got {decay_steps}"
        )
    if decay not in ("linear", "sqrt"):
        raise ValueError(f"decay must be 'linear' or 'sqrt', got {decay!r}")
    if step < warmup_steps:
        return max_lr * step / warmup_steps
    if step >= total_steps:
        return min_lr
    done = max(0.0, (step - (total_steps - decay_steps)) / max(1, decay_steps))
    return max_lr + (min_lr - max_lr) * (done if decay == "linear" else math.sqrt(done))
