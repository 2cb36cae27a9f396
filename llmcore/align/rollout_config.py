"""The settings of reinforcement learning: `RolloutConfig`, what GRPO and PPO share, and `GRPOConfig`.

Taught in: 07_dpo_grpo.
"""

from dataclasses import dataclass
from typing import Any, Literal

from llmcore.align.base import AlignConfig, at_least
from llmcore.align.losses.policy import VARIANTS, Variant


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(AlignConfig):
    """Settings of any trainer that learns from its own answers; batch_size counts responses of one update.

    Raises: ValueError naming the setting, its value and what to do.
    """

    group_size: int = 1
    """Responses to each prompt; batch_size is a multiple of it."""
    max_tokens: int = 64
    """Longest response, the end token included."""
    temperature: float = 1.0
    """Of the sampling, and of the log-probabilities that are trained."""
    beta: float = 0.0
    """Weight of the KL penalty; 0 needs no reference."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Its estimator."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it goes: into the loss, token by token, or out of the reward, before advantages are taken."""
    epochs: int = 1
    """Times that each rollout is gone through."""
    minibatches: int = 1
    """Updates of each time; a rollout is batch_size * minibatches responses."""
    old_logprobs: Literal["rollout", "forward"] = "rollout"
    """Where old log-probabilities come from when a rollout serves several updates."""
    overlong_buffer: int | None = None
    """Tokens before max_tokens over which the penalty of length grows to 1; None for no penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("group_size", "max_tokens", "epochs", "minibatches"):
            at_least(self, name, 1)
        at_least(self, "beta", 0)
        if self.batch_size % self.group_size:
            near = self.batch_size // self.group_size * self.group_size or self.group_size
            raise ValueError(
                f"batch_size must be a multiple of group_size={self.group_size}, got {self.batch_size}; {near} would do"
            )
        if not self.temperature > 0:
            raise ValueError(
                f"temperature must be positive, got {self.temperature}; greedy answers to a prompt are all the same and teach nothing"
            )
        if self.overlong_buffer is not None:
            at_least(self, "overlong_buffer", 0)

    @property
    def updates_per_rollout(self) -> int:
        """Optimizer steps that one rollout serves."""
        return self.epochs * self.minibatches

    @property
    def scales_by_std(self) -> bool:
        """Whether advantages are divided by their group's standard deviation."""
        return False

    @property
    def resamples(self) -> int:
        """How often groups with equal rewards are replaced, at most."""
        return 0


@dataclass(frozen=True, kw_only=True)
class GRPOConfig(RolloutConfig):
    """One run of GRPO or a variant of it.

    >>> GRPOConfig(variant="dapo").clip
    (0.2, 0.28)

    Raises: ValueError naming the setting, its value and what to do.
    """

    variant: Literal["grpo", "dr_grpo", "dapo", "gspo"] = "grpo"
    """How losses are averaged, advantages scaled and ratios taken; see `llmcore.align.losses.VARIANTS`."""
    group_size: int = 8
    """Responses to each prompt; batch_size is a multiple of it."""
    eps_low: float | None = None
    """Clip range below 1; None for the variant's own."""
    eps_high: float | None = None
    """Clip range above 1 (clip-higher: larger than eps_low); None for the variant's own."""
    normalize_std: bool | None = None
    """Divide advantages by the group's standard deviation; None for the variant's own."""
    dynamic_sampling: bool | None = None
    """Replace groups whose rewards are all equal by groups of further prompts; None for the variant's own."""
    max_resamples: int = 3
    """How often, at most, per rollout; what is still missing then stays as it is, with advantage 0."""
    mask_truncated: bool = False
    """Learn nothing from responses that max_tokens cut off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "max_resamples", 0)
        for name in ("eps_low", "eps_high"):
            if getattr(self, name) is not None:
                at_least(self, name, 0)

    @property
    def published(self) -> Variant:
        """What the variant's paper prescribes."""
        return VARIANTS[self.variant]

    @property
    def clip(self) -> tuple[float, float]:
        """(eps_low, eps_high) in force."""
        return self._of_variant("eps_low"), self._of_variant("eps_high")

    @property
    def scales_by_std(self) -> bool:
        """Whether advantages are divided by their group's standard deviation."""
        return self._of_variant("normalize_std")

    @property
    def resamples(self) -> int:
        """How often groups with equal rewards are replaced, at most."""
        return self.max_resamples if self._of_variant("dynamic_sampling") else 0

    def _of_variant(self, name: str) -> Any:
        own = getattr(self, name)
        return getattr(self.published, name) if own is None else own
