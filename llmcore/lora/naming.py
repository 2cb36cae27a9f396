"""What PEFT calls the layers of a model: the paths of the Hugging Face model that a `Transformer` corresponds to.

Most layers correspond one to one. GPT-2 keeps query, key and value in one layer, c_attn: three updates become one of
three times the rank, B block-diagonal, and one becomes three that share A. Both are exact.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmcore._targets import all_layers
from llmcore.lora.bases import is_adaptable, is_conv1d
from llmcore.lora.layers import LoraLinear


@dataclass(frozen=True)
class Update:
    """One layer's update as files hold it; `scale` multiplies B A."""

    a: Tensor
    """(r, in)."""
    b: Tensor
    """(out, r)."""
    scale: int | float
    """alpha / r or alpha / sqrt(r)."""
    magnitude: Tensor | None = None
    """DoRA's, (out,)."""

    @property
    def rank(self) -> int:
        """r."""
        return self.a.shape[0]


@dataclass(frozen=True)
class Names:
    """Their layers and ours."""

    ours_of: dict[str, tuple[str, ...]]
    """Path of their layer to the paths of ours that it holds."""
    fan_in_fan_out: bool
    """Whether theirs store weights as (in, out)."""
    is_language_model: bool
    """Whether theirs is a causal language model of transformers."""


def adaptable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path to layer of all that take or carry adapters."""
    return all_layers(
        model,
        fits=lambda module: isinstance(module, LoraLinear) or is_adaptable(module),
        inside=lambda module: isinstance(module, LoraLinear),
    )


def name_layers(model: nn.Module) -> Names:
    """Their names of every layer that takes adapters; of models other than `Transformer`, the model's own names.

    A Transformer that no Hugging Face family can say keeps its own names too.
    """
    layers = adaptable_layers(model)
    family = _family(model)
    if family is None:
        bases = [layer.base if isinstance(layer, LoraLinear) else layer for layer in layers.values()]
        conv1d = any(is_conv1d(base) for base in bases)
        return Names(
            {path: (path,) for path in layers}, conv1d, type(model).__name__.endswith(("ForCausalLM", "LMHeadModel"))
        )
    from llmcore.model.hf.tensors import links

    weights = [f"{path}.weight" for path in layers]
    found = {
        link.theirs[0].removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in link.ours)
        for link in links(family, model.config, weights)
    }
    return Names(found, family == "gpt2", True)


def _family(model: nn.Module) -> str | None:
    """The Hugging Face family of a `Transformer`, None when it is none or no family can say it."""
    from llmcore.model.hf.families import config_to_hf
    from llmcore.model.transformer import Transformer

    if not isinstance(model, Transformer):
        return None
    loaded = (getattr(model, "hf_config", None) or {}).get("model_type")
    try:
        return loaded or config_to_hf(model.config, None)["model_type"]
    except ValueError:
        return None


def join_updates(parts: list[Update | None], norms: list[Tensor]) -> Update:
    """One update of the layer that holds these layers' outputs one after the other; None where a part has no update.

    `norms` are the row norms of the parts' weights: the magnitudes of parts that have none.
    """
    given = [part for part in parts if part is not None]
    first = given[0]
    a = torch.cat([part.a for part in given])
    rows, column = [], 0
    for part, norm in zip(parts, norms, strict=True):
        block = first.b.new_zeros(len(norm), len(a))
        if part is not None:
            block[:, column : column + part.rank] = part.b * (part.scale / first.scale)
            column += part.rank
        rows.append(block)
    magnitude = None
    if first.magnitude is not None:
        magnitude = torch.cat(
            [norm.to(first.b) if part is None else part.magnitude for part, norm in zip(parts, norms)]
        )
    return Update(a, torch.cat(rows), first.scale, magnitude)


def split_update(update: Update, sizes: list[int]) -> list[Update | None]:
    """The update of each part of a layer, whose outputs are cut into these sizes; None for a part that it leaves alone.

    A block-diagonal B gives each part its own A; any other lets the parts share A.
    """
    blocks = update.b.split(sizes)
    magnitudes = [None] * len(sizes) if update.magnitude is None else update.magnitude.split(sizes)
    share = update.rank // len(sizes)
    own = [slice(index * share, (index + 1) * share) for index in range(len(sizes))]
    is_diagonal = share * len(sizes) == update.rank and all(
        not torch.cat((block[:, : mine.start], block[:, mine.stop :]), dim=1).any() for block, mine in zip(blocks, own)
    )
    if is_diagonal:
        return [
            Update(update.a[mine], block[:, mine], update.scale, magnitude)
            for block, mine, magnitude in zip(blocks, own, magnitudes)
        ]
    return [
        None if not block.any() and magnitude is None else Update(update.a.clone(), block, update.scale, magnitude)
        for block, magnitude in zip(blocks, magnitudes)
    ]


def alpha_of(scale: int | float, rank: int, rank_stabilized: bool) -> int | float:
    """The alpha that gives this scale at this rank; a whole number where it is one but for rounding."""
    alpha = scale * (math.sqrt(rank) if rank_stabilized else rank)
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha


def shortest_targets(chosen: set[str], names: Mapping[str, object]) -> list[str]:
    """Last parts of the chosen paths where these mean exactly the chosen ones among all names, else the whole paths."""
    lasts = {path.rpartition(".")[2] for path in chosen}
    meant = {path for path in names if path.rpartition(".")[2] in lasts}
    return sorted(lasts if meant == chosen else chosen)
