"""`ModelConfig`: one frozen dataclass that can say every architecture of the course, each default stated once.

Windows follow the house convention: `window` counts the tokens strictly before the query (a published "sliding window
of 4096" is window=4095). Layers are counted from 0.

Left out on purpose: anything about training (see `llmcore.train.TrainConfig`) and dtypes or devices (use `model.to`).
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from llmcore.layers import FFN_KINDS, ffn_parts, swiglu_width
from llmcore.moe import MoeConfig
from llmcore.norms import RESIDUAL_STYLES, ResidualStyle
from llmcore.positions import LAYOUTS, Layout, RopeScaling

PositionKind = Literal["rope", "learned", "sinusoidal", "alibi", "none"]
POSITION_KINDS: tuple[PositionKind, ...] = ("rope", "learned", "sinusoidal", "alibi", "none")
NORM_KINDS = ("rms", "layer")


def _at_least(name: str, value: float, least: float, hint: str = "") -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}" + (f"; {hint}" if hint else ""))


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Multi-head latent attention (MLA): keys and values are rebuilt from one small latent per token.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.
    """

    kv_rank: int
    """Width of the cached latent that keys and values are rebuilt from."""
    q_rank: int | None = None
    """Width of the query latent; None projects queries directly."""
    nope_dim: int
    """Query and key dims per head without positions."""
    rope_dim: int
    """Query and key dims per head that RoPE turns; the key's are shared by all heads. Even."""
    value_dim: int
    """Value dims per head."""
    norm_eps: float = 1e-6
    """Epsilon of the norms on the two latents."""

    def __post_init__(self) -> None:
        for name in ("kv_rank", "nope_dim", "rope_dim", "value_dim"):
            _at_least(f"latent.{name}", getattr(self, name), 1)
        if self.q_rank is not None:
            _at_least("latent.q_rank", self.q_rank, 1, "to project queries directly, pass None")
        if self.rope_dim % 2:
            raise ValueError(f"latent.rope_dim must be even, got {self.rope_dim}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture of one decoder (or, with causal=False, encoder).

    >>> ModelConfig(width=12, n_heads=3, n_layers=2, vocab_size=11).head_dim
    4

    Raises: ValueError naming the field, the value and what to do, when the parts do not fit.
    """

    vocab_size: int = 50257
    """Rows of the embedding, V."""
    context: int = 1024
    """Longest sequence meant, in tokens. Learned positions end here; the others may be run beyond it."""
    n_layers: int = 12
    """Blocks."""
    width: int = 768
    """Model width E, the size of the residual stream."""

    n_heads: int = 12
    """Query heads H."""
    n_kv_heads: int | None = None
    """Key/value heads K: None for n_heads (MHA), 1 for MQA, between for GQA. Divides n_heads."""
    head_dim: int | None = None
    """Dims per head D; None for width / n_heads."""
    latent: LatentConfig | None = None
    """Latent attention (MLA) in place of projected keys and values."""
    causal: bool = True
    """Hide the future. False makes an encoder."""
    window: int | None = None
    """Tokens strictly before the query that a sliding-window layer sees; None for full attention everywhere."""
    full_attention_layers: tuple[int, ...] = ()
    """Layers that ignore `window`: the global layers of an interleaved stack."""
    qkv_bias: bool = False
    """Biases on the query, key and value projections (MLA: on the two down-projections)."""
    out_bias: bool = False
    """Bias on the attention's output projection."""
    qk_norm: bool = False
    """RMSNorm each query and key head before positions are applied."""
    attention_scale: float | None = None
    """Multiplies the scores; None for 1 / sqrt(head_dim)."""
    attention_softcap: float | None = None
    """Scores become cap * tanh(score / cap)."""

    position: PositionKind = "rope"
    """rope, learned, sinusoidal, alibi or none."""
    rope_base: float = 10000.0
    """Base of RoPE's frequencies."""
    rope_scaling: RopeScaling | None = None
    """Context scaling of RoPE."""
    rope_layout: Layout = "half"
    """Which columns RoPE pairs."""
    rotary_fraction: float = 1.0
    """Share of each head's dims that RoPE turns, counted from the first."""
    nope_layers: tuple[int, ...] = ()
    """Layers without RoPE or ALiBi (NoPE layers of an interleaved stack)."""

    ffn: str = "swiglu"
    """Feed-forward kind, a key of llmcore.layers.FFN_KINDS."""
    ffn_width: int | None = None
    """Hidden width F; None for 4 * width, or 8/3 * width rounded up to 64 for gated kinds."""
    ffn_bias: bool = False
    """Biases in the feed-forward networks."""
    moe: MoeConfig | None = None
    """Experts in place of the feed-forward network, except in moe.dense_layers."""

    norm: Literal["rms", "layer"] = "rms"
    """Kind of norm."""
    norm_eps: float = 1e-6
    """Epsilon inside the root."""
    norm_bias: bool = False
    """Biases in LayerNorm."""
    norm_unit_offset: bool = False
    """RMSNorm multiplies by 1 + weight (Gemma)."""
    norm_placement: ResidualStyle = "pre"
    """pre, post, double (before and after) or deep (DeepNorm)."""
    parallel: bool = False
    """Attention and feed-forward read the same normalised input and are added together (pre-norm only)."""

    tie_embeddings: bool = True
    """The output head is the embedding matrix."""
    embedding_scale: float = 1.0
    """Multiplies the token embeddings (Gemma: sqrt(width))."""
    logit_softcap: float | None = None
    """Logits become cap * tanh(logit / cap)."""
    n_mtp: int = 0
    """Multi-token-prediction modules; module k predicts the token k + 1 further on than the main head."""

    dropout: float = 0.0
    """Dropout on the embeddings and on what each sub-layer adds."""
    init_std: float = 0.02
    """Standard deviation of the normal start of matrices."""
    z_loss: float = 0.0
    """Coefficient of mean(log Z^2) that `llmcore.model.losses.training_loss` adds."""
    mtp_loss: float = 0.3
    """Coefficient of the multi-token-prediction loss in `training_loss`."""

    def __post_init__(self) -> None:
        derived = [name for name in ("n_kv_heads", "head_dim", "ffn_width") if getattr(self, name) is None]
        object.__setattr__(self, "_derived", tuple(derived))
        for name in ("vocab_size", "context", "n_layers", "width", "n_heads"):
            _at_least(name, getattr(self, name), 1)
        _one_of("position", self.position, POSITION_KINDS)
        _one_of("norm", self.norm, NORM_KINDS)
        _one_of("norm_placement", self.norm_placement, RESIDUAL_STYLES)
        _one_of("rope_layout", self.rope_layout, LAYOUTS)
        _one_of("ffn", self.ffn, tuple(FFN_KINDS))
        self._resolve_heads()
        if self.ffn_width is None:
            wide = swiglu_width(self.width) if ffn_parts(self.ffn)[1] else 4 * self.width
            object.__setattr__(self, "ffn_width", wide)
        _at_least("ffn_width", self.ffn_width, 1)
        for name in ("full_attention_layers", "nope_layers"):
            self._check_layers(name, getattr(self, name))
        if self.moe is not None:
            self._check_layers("moe.dense_layers", self.moe.dense_layers)
        if self.window is not None:
            _at_least("window", self.window, 0, "for full attention pass None")
        self._check_combinations()

    def _resolve_heads(self) -> None:
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        if self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads must divide n_heads={self.n_heads}, got {self.n_kv_heads}; 1 shares one head, {self.n_heads} shares none"
            )
        if self.head_dim is None:
            if self.latent is not None:
                object.__setattr__(self, "head_dim", self.latent.nope_dim + self.latent.rope_dim)
            elif self.width % self.n_heads:
                raise ValueError(
                    f"n_heads must divide width={self.width}, got {self.n_heads}; change one of them or pass head_dim"
                )
            else:
                object.__setattr__(self, "head_dim", self.width // self.n_heads)
        _at_least("head_dim", self.head_dim, 1)
        if self.latent is not None:
            if self.head_dim != self.latent.nope_dim + self.latent.rope_dim:
                raise ValueError(
                    f"latent attention has head_dim = nope_dim + rope_dim = {self.latent.nope_dim + self.latent.rope_dim}, "
                    f"got {self.head_dim}; leave head_dim out"
                )
            if self.n_kv_heads != self.n_heads:
                raise ValueError(
                    f"latent attention shares no heads: n_kv_heads must be {self.n_heads}, got {self.n_kv_heads}"
                )
        elif self.position == "rope" and (self.rotary_dim < 2 or self.rotary_dim % 2):
            raise ValueError(
                f"RoPE turns pairs: head_dim * rotary_fraction must be even and at least 2, got {self.head_dim} * {self.rotary_fraction}"
            )

    def _check_layers(self, name: str, layers: tuple[int, ...]) -> None:
        wrong = [layer for layer in layers if not 0 <= layer < self.n_layers]
        if wrong:
            raise ValueError(f"{name} names layers {wrong}, but the {self.n_layers} layers are 0..{self.n_layers - 1}")

    def _check_combinations(self) -> None:
        if not 0 < self.rotary_fraction <= 1:
            raise ValueError(
                f"rotary_fraction must be in (0, 1], got {self.rotary_fraction}; for no RoPE pass position='none'"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")
        _at_least("n_mtp", self.n_mtp, 0)
        for name in ("attention_softcap", "logit_softcap", "attention_scale"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}; to leave it out pass None")
        if self.parallel and self.norm_placement != "pre":
            raise ValueError(f"parallel blocks need norm_placement='pre', got {self.norm_placement!r}")
        if self.norm_unit_offset and self.norm != "rms":
            raise ValueError("norm_unit_offset belongs to norm='rms'; leave it out for norm='layer'")
        if self.norm_bias and self.norm != "layer":
            raise ValueError("norm_bias belongs to norm='layer'; RMSNorm has no bias")
        if self.position == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, got {self.width}")
        if self.rope_scaling is not None and self.position != "rope":
            raise ValueError(f"rope_scaling needs position='rope', got {self.position!r}")
        if self.latent is not None and (self.qk_norm or self.position == "alibi"):
            raise ValueError(
                "latent attention goes with RoPE or no positions, without qk_norm (its latents are normalised)"
            )

    @property
    def rotary_dim(self) -> int:
        """Dims per head that RoPE turns."""
        return self.latent.rope_dim if self.latent is not None else int(self.head_dim * self.rotary_fraction)

    @property
    def value_dim(self) -> int:
        """Value dims per head."""
        return self.latent.value_dim if self.latent is not None else self.head_dim

    def window_of(self, layer: int) -> int | None:
        """The left window of that layer, None for full attention."""
        return None if layer in self.full_attention_layers else self.window

    def has_positions(self, layer: int) -> bool:
        """Whether that layer's attention applies RoPE or ALiBi."""
        return self.position in ("rope", "alibi") and layer not in self.nope_layers

    def is_moe(self, layer: int) -> bool:
        """Whether that layer routes to experts."""
        return self.moe is not None and layer not in self.moe.dense_layers

    def replace(self, **changes: Any) -> "ModelConfig":
        """A copy with these fields changed, validated anew; what was derived (head_dim, say) is derived again.

        >>> ModelConfig(width=12, n_heads=3).replace(n_heads=6).head_dim
        2
        """
        return replace(self, **dict.fromkeys(self._derived) | changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` reads back and JSON can hold."""
        nested = {"latent", "moe", "rope_scaling"}
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in nested}
        for name in nested:
            part = getattr(self, name)
            plain[name] = None if part is None else {field.name: getattr(part, field.name) for field in fields(part)}
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """The config that `to_dict` wrote; lists stand for tuples, as JSON has none.

        Raises: ValueError naming an unknown field.
        """
        parts = {"latent": LatentConfig, "moe": MoeConfig, "rope_scaling": RopeScaling}
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"ModelConfig has no field {', '.join(unknown)}")
        plain = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        for name, part in parts.items():
            if plain.get(name) is not None:
                plain[name] = part(**{key: tuple(v) if isinstance(v, list) else v for key, v in plain[name].items()})
        return cls(**plain)
