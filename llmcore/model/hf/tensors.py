"""Which of a checkpoint's tensors is which of ours, and how one becomes the other.

Four ways suffice: the same; transposed (GPT-2 stores (in, out)); one of theirs split into several of ours (GPT-2's query,
key and value in one matrix); several of theirs stacked into one of ours (experts).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmcore.model.config import ModelConfig


@dataclass(frozen=True)
class Link:
    """Tensors of ours that correspond to tensors of theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: Literal["same", "transposed", "split", "stacked"] = "same"

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        """Their tensors as ours."""
        if self.how == "transposed":
            return [tensors[0].t()]
        if self.how == "split":
            return list(tensors[0].t().chunk(len(self.ours)))
        return [torch.stack(tensors)] if self.how == "stacked" else tensors

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        """The inverse of `to_ours`."""
        if self.how == "transposed":
            return [tensors[0].t().contiguous()]
        if self.how == "split":
            return [torch.cat(tensors).t().contiguous()]
        return [part.contiguous() for part in tensors[0]] if self.how == "stacked" else tensors


# Our module names within a block, theirs in every family after GPT-2.
LLAMA_NAMES = {
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention": "self_attn",
    "ffn": "mlp",
    "q_down_proj": "q_a_proj",
    "q_latent_norm": "q_a_layernorm",
    "q_up_proj": "q_b_proj",
    "kv_down_proj": "kv_a_proj_with_mqa",
    "kv_latent_norm": "kv_a_layernorm",
    "kv_up_proj": "kv_b_proj",
    "router": "gate",
    "shared": "shared_experts",
}
GEMMA2_NAMES = LLAMA_NAMES | {
    "attention_out_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_out_norm": "post_feedforward_layernorm",
}
MIXTRAL_NAMES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
GPT2_NAMES = {
    "attention_norm": "ln_1",
    "ffn_norm": "ln_2",
    "attention": "attn",
    "ffn": "mlp",
    "o_proj": "c_proj",
    "up_proj": "c_fc",
    "down_proj": "c_proj",
    "q_proj": "c_attn",
    "k_proj": "c_attn",
    "v_proj": "c_attn",
}
MTP_NAMES = {
    "state_norm": "hnorm",
    "token_norm": "enorm",
    "project": "eh_proj",
    "final_norm": "shared_head.norm",
}
# Written by some versions of the libraries; they hold nothing that is learned.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def module_path(model_type: str, path: str) -> str:
    """The path of one of our modules or parameters in that family's own model.

    >>> module_path("llama", "blocks.3.attention.q_proj")
    'model.layers.3.self_attn.q_proj'
    >>> module_path("gpt2", "blocks.3.ffn.up_proj")
    'transformer.h.3.mlp.c_fc'
    """
    gpt2 = model_type == "gpt2"
    tops = {
        "embedding": "transformer.wte" if gpt2 else "model.embed_tokens",
        "position_embedding": "transformer.wpe",
        "final_norm": "transformer.ln_f" if gpt2 else "model.norm",
        "head": "lm_head",
        "blocks": "transformer.h" if gpt2 else "model.layers",
    }
    inner = GPT2_NAMES if gpt2 else GEMMA2_NAMES if model_type == "gemma2" else LLAMA_NAMES
    first, *rest = path.split(".")
    if model_type == "mixtral" and "ffn" in rest:
        inner = inner | MIXTRAL_NAMES | {"ffn": "block_sparse_moe"}
    renamed = ["gate.e_score_correction_bias" if part == "choice_bias" else inner.get(part, part) for part in rest]
    return ".".join([tops.get(first, first), *renamed])


def links(model_type: str, config: ModelConfig, names: list[str]) -> Iterator[Link]:
    """A link for every one of our tensors, given by name."""
    for name in names:
        if name.startswith("mtp."):
            yield _mtp_link(model_type, config, name)
        elif ".experts." in name:
            yield _expert_link(model_type, config, name)
        elif model_type == "gpt2":
            link = _gpt2_link(name)
            if link is not None:
                yield link
        else:
            yield Link((name,), (module_path(model_type, name),))


def _gpt2_link(name: str) -> Link | None:
    """GPT-2's matrices are (in, out), and q, k, v are one; None for k and v, which go with q."""
    theirs = module_path("gpt2", name)
    if ".c_attn." in theirs:
        if ".q_proj." not in name:
            return None
        return Link(tuple(name.replace("q_proj", part) for part in ("q_proj", "k_proj", "v_proj")), (theirs,), "split")
    is_matrix = name.startswith("blocks.") and name.endswith("proj.weight")
    return Link((name,), (theirs,), "transposed" if is_matrix else "same")


def _expert_link(model_type: str, config: ModelConfig, name: str) -> Link:
    """blocks.0.ffn.experts.up_proj holds all experts; theirs are one tensor each."""
    before, _, matrix = name.partition(".experts.")
    theirs = tuple(
        module_path(model_type, f"{before}.experts.{expert}.{matrix}") + ".weight"
        for expert in range(config.moe.n_experts)
    )
    return Link((name,), theirs, "stacked")


def _mtp_link(model_type: str, config: ModelConfig, name: str) -> Link:
    """Prediction module k is stored as if it were layer n_layers + k."""
    _, depth, rest = name.split(".", 2)
    layer = f"blocks.{config.n_layers + int(depth)}."
    if rest.startswith("block."):
        inner = layer + rest.removeprefix("block.")
        if ".experts." in inner:
            return Link((name,), _expert_link(model_type, config, inner).theirs, "stacked")
        return Link((name,), (module_path(model_type, inner),))
    part, _, leaf = rest.partition(".")
    return Link((name,), (f"{module_path(model_type, layer.rstrip('.'))}.{MTP_NAMES[part]}.{leaf}",))


def is_ignored(name: str, config: ModelConfig) -> bool:
    """Whether a checkpoint's tensor is rightly left unread."""
    if name.endswith(IGNORED_SUFFIXES) or (config.tie_embeddings and name == "lm_head.weight"):
        return True
    layer = name.removeprefix("model.layers.").partition(".")[0]
    # Prediction modules: unread when the model has none; each repeats the embedding and the head.
    extra = name.startswith("model.layers.") and layer.isdigit() and int(layer) >= config.n_layers
    return extra and (config.n_mtp == 0 or name.endswith(("embed_tokens.weight", "shared_head.head.weight")))


__all__ = ["Link", "is_ignored", "links", "module_path"]
