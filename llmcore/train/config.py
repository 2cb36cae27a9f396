"""`TrainConfig`: every setting of a training run, its default and its meaning, stated once.

The command line, the TOML files and `llmcore-train --fields` are all read off this class.
"""

import ast
import difflib
import inspect
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from llmcore.model.config import ModelConfig
from llmcore.model.presets import PRESETS

if TYPE_CHECKING:
    from llmcore.lora.config import LoraConfig

TABLES = ("model", "lora")
LORA_EXTRAS = ("quantize", "lr_ratio")
CORPORA = ("python_documentation", "standard_library")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; the same on one device and on many.

    >>> config = TrainConfig(total_steps=10, model={"width": 32, "n_heads": 2, "n_layers": 1})
    >>> config.model_config(vocab_size=300).context
    256

    Raises: ValueError naming the setting, its value and what to do.
    """

    out_dir: str = "runs/default"
    """Folder of the run: tokenizer, tokens, checkpoints, logs."""

    train_data: str | tuple[str, ...] = "python_documentation"
    """A token file, text files or a folder of them, or one of the corpora that are always there: python_documentation, standard_library."""
    eval_data: str | tuple[str, ...] | None = None
    """Likewise, to evaluate on; None holds out the last eval_fraction of the training tokens."""
    eval_fraction: float = 0.05
    """Share of the tokens held out when there is no eval_data; 0 evaluates on nothing."""
    tokenizer: str | None = None
    """File of a trained tokenizer; None trains one of vocab_size on the training text."""
    vocab_size: int = 1024
    """Size of a tokenizer that is trained here."""
    end_of_text: str = "<|endoftext|>"
    """Special token after each document."""
    data_order: Literal["random", "shuffled", "packed", "stream"] = "random"
    """random windows; shuffled: each window once an epoch; packed: whole documents in rows; stream: straight from text, in order."""
    document_masks: bool = False
    """Keep attention and positions within documents (packed rows always do)."""
    shuffle_rows: int = 0
    """Rows that a stream holds back to draw from at random."""
    workers: int = 1
    """Processes that tokenize text."""

    model: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ModelConfig; "preset" names one to start from. vocab_size and context follow the data when left out."""
    init_from: str | None = None
    """Checkpoint whose weights the run starts from: a Hugging Face folder, a .gguf file, or one of a run's own; model is then not looked at."""
    lora: Mapping[str, Any] = field(default_factory=dict)
    """Fields of LoraConfig: adapters learn and the weights stay. Also quantize ("nf4", "int8") for the weights, lr_ratio for B's learning rate over A's (LoRA+)."""

    total_steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Sequences per optimizer step, over all devices and micro-batches."""
    micro_batch: int | None = None
    """Sequences that one device takes at once; None for all of its share. The rest is gradient accumulation."""
    context: int = 256
    """Tokens per sequence."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon takes the hidden matrices and leaves the rest to AdamW."""
    lr: float = 1e-3
    """Largest learning rate."""
    min_lr: float = 1e-4
    """Last learning rate."""
    schedule: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 0
    """Steps until the largest learning rate."""
    decay_steps: int | None = None
    """Steps of the final decay of wsd; None for a tenth of the run."""
    weight_decay: float = 0.1
    """On matrices; norms, biases and other vectors have none."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's two averages."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    momentum: float = 0.95
    """Muon's."""
    muon_scale: Literal["rms", "original"] = "rms"
    """rms: Muon shares AdamW's learning rate; original: its own, see adamw_lr."""
    adamw_lr: float | None = None
    """Largest learning rate of the parameters that Muon leaves to AdamW; None for lr."""
    clip_norm: float | None = 1.0
    """Largest norm of all gradients together; None leaves them."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over the vocabulary."""
    z_loss: float | None = None
    """Coefficient of mean(log Z^2); None for the model's own."""
    loss_chunk_tokens: int | None = None
    """Tokens whose logits are held at once; None for a size that suits the device."""

    seed: int = 0
    """Of weights, data order, dropout and samples."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Of matrix products; weights and optimizer stay float32. fp16 scales the loss."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """What several processes do: ddp keeps the whole model on each, fsdp (FSDP2) a share; auto is ddp. One process needs neither."""
    compile: bool = False
    """Run the model through torch.compile."""
    activation_checkpointing: bool = False
    """Keep only each block's input and compute the rest again in the backward pass."""

    eval_every: int = 0
    """Steps between evaluations, one at the end included; 0 for none."""
    eval_rows: int = 64
    """Sequences of an evaluation, spread over the evaluation tokens."""
    save_every: int = 0
    """Steps between checkpoints; 0 saves at the end and on interruption only."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    resume: str = "auto"
    """auto: from the newest checkpoint in out_dir if there is one; never; or the path of a checkpoint."""
    sample_every: int = 0
    """Steps between samples of text, one at the end included; 0 for none. Not with fsdp."""
    sample_prompt: str = "\n"
    """What samples begin with."""
    sample_tokens: int = 100
    """Length of a sample."""
    sample_temperature: float = 0.8
    """Of samples."""
    log_every: int = 1
    """Steps between lines of the log."""
    progress: bool = True
    """Show a progress bar, or a line now and then where there is no terminal."""
    tensorboard: bool = False
    """Also write TensorBoard files."""

    def __post_init__(self) -> None:
        for name in ("total_steps", "batch_size", "context", "vocab_size", "keep_checkpoints", "log_every", "workers"):
            self._at_least(name, 1)
        for name in ("eval_every", "save_every", "sample_every", "eval_rows", "shuffle_rows", "sample_tokens", "seed"):
            self._at_least(name, 0)
        for name, choices in _choices().items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch must divide batch_size={self.batch_size}, got {self.micro_batch}")
        if not 0 <= self.eval_fraction < 1:
            raise ValueError(f"eval_fraction must be in [0, 1), got {self.eval_fraction}")
        if not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"min_lr must be in [0, lr={self.lr}], got {self.min_lr}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(f"warmup_steps must be in 0..total_steps={self.total_steps}, got {self.warmup_steps}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(
                f"clip_norm must be positive, got {self.clip_norm}; to leave gradients as they are pass None"
            )
        if self.document_masks and not self.end_of_text:
            raise ValueError("document_masks needs end_of_text, the special token that separates documents")
        if self.data_order == "stream" and self.eval_data is None and self.eval_fraction:
            raise ValueError("a stream holds nothing out: give eval_data, or set eval_fraction = 0")
        if self.precision == "fp16" and self.parallel == "fsdp":
            raise ValueError("fp16 goes with ddp; under fsdp use bf16")
        if self.sample_every and self.parallel == "fsdp":
            raise ValueError("samples are not made under fsdp; set sample_every = 0 and sample from the checkpoint")
        if self.init_from is None:
            self.model_config(vocab_size=self.vocab_size)
        if self.lora:
            self._check_lora()

    def _check_lora(self) -> None:
        self.lora_config()
        if self.lora.get("quantize") not in (None, "nf4", "int8"):
            raise ValueError(f"lora.quantize must be 'nf4' or 'int8', got {self.lora['quantize']!r}")
        ratio = self.lora.get("lr_ratio", 1.0)
        if not isinstance(ratio, (int, float)) or not ratio > 0:
            raise ValueError(f"lora.lr_ratio must be positive, got {ratio!r}; LoRA+ takes 16")
        if ratio != 1 and self.optimizer != "adamw":
            raise ValueError(f"lora.lr_ratio goes with adamw, got optimizer={self.optimizer!r}")
        if self.parallel == "fsdp":
            raise ValueError("adapters go with ddp: they are small; set parallel = 'ddp'")

    def lora_config(self) -> "LoraConfig":
        """The adapter that `lora` says.

        Raises: ValueError for an unknown field or a bad value.
        """
        from llmcore.lora.config import LoraConfig

        return LoraConfig.from_dict({name: value for name, value in self.lora.items() if name not in LORA_EXTRAS})

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The architecture that `model` says, for data of this vocabulary size.

        Raises: ValueError for an unknown preset or field, or a model smaller than its data.
        """
        given = dict(self.model)
        preset = given.pop("preset", None)
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"model.preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        unknown = set(given) - {item.name for item in fields(ModelConfig)}
        if unknown:
            raise ValueError(_unknown("model field", min(unknown), [item.name for item in fields(ModelConfig)]))
        given = {"vocab_size": vocab_size, "context": self.context} | given
        if preset is None:
            config = ModelConfig.from_dict(given)
        else:
            nested = ModelConfig.from_dict(
                {name: given[name] for name in given if name in ("latent", "moe", "rope_scaling")}
            )
            parts = {name: getattr(nested, name) for name in ("latent", "moe", "rope_scaling") if name in given}
            config = PRESETS[preset].replace(**(given | parts))
        if config.vocab_size < vocab_size:
            raise ValueError(
                f"model.vocab_size must be at least the tokenizer's {vocab_size}, got {config.vocab_size}; leave it out to follow it"
            )
        if config.context < self.context and config.position == "learned":
            raise ValueError(
                f"context={self.context} is longer than the model's {config.context} learned positions; shorten it"
            )
        return config

    def replace(self, **changes: Any) -> "TrainConfig":
        """A copy with these settings changed, checked anew."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold and `from_dict` reads back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The config with these settings, defaults for the others; lists stand for tuples.

        Raises: ValueError for an unknown setting (naming the nearest) or a value of the wrong type.
        """
        hints = get_type_hints(cls)
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(_unknown("setting", name, known))
        return cls(**{name: _typed(name, value, hints[name]) for name, value in values.items()})

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> "TrainConfig":
        """The config of a TOML file, then of overrides such as "lr=3e-4" or "model.width=128".

        Tables other than [model] and [lora] only group settings: their names do not matter.

        Raises: FileNotFoundError; ValueError for a file that is no TOML, an unknown setting, or an override without "=".
        """
        try:
            content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"no config file {str(path)!r}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{str(path)!r} is no TOML file: {error}") from None
        values: dict[str, Any] = {}
        for name, value in content.items():
            values |= value if isinstance(value, dict) and name not in TABLES else {name: value}
        for override in overrides:
            name, equals, text = override.partition("=")
            if not equals:
                raise ValueError(f"a setting is changed by key=value, got {override!r}")
            name, value = name.strip(), _parse(text.strip())
            table, dot, inner = name.partition(".")
            if dot and table in TABLES:
                values[table] = {**values.get(table, {}), inner: value}
            else:
                values[name] = value
        return cls.from_dict(values)


def _parse(text: str) -> Any:
    """A TOML value, "none" for None, or the text itself."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no {what} {name!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
    )


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as its type hint wants it: lists become tuples, whole numbers floats."""
    if isinstance(value, list):
        value = tuple(value)
    if get_origin(hint) is Literal:  # TrainConfig itself checks choices
        return value
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = tuple(get_origin(option) or option for option in options)
    if float in kinds and type(value) is int:
        return float(value)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} must be {wanted}, got {value!r} ({type(value).__name__})")
    return value


@cache
def _choices() -> dict[str, tuple[str, ...]]:
    return {name: get_args(hint) for name, hint in get_type_hints(TrainConfig).items() if get_origin(hint) is Literal}


@cache
def describe_fields() -> list[tuple[str, str, str]]:
    """(name, default, meaning) of every setting, read off the class."""
    body = ast.parse(inspect.getsource(TrainConfig)).body[0].body
    meanings = {
        first.target.id: second.value.value
        for first, second in pairwise(body)
        if isinstance(first, ast.AnnAssign) and isinstance(second, ast.Expr) and isinstance(second.value, ast.Constant)
    }
    defaults = TrainConfig()
    return [(item.name, repr(getattr(defaults, item.name)), meanings[item.name]) for item in fields(TrainConfig)]
