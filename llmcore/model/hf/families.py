"""config.json of each supported family to `ModelConfig` and back.

Every family is a pair of functions. What a family can say is not written down a second time: a config belongs to it when
writing and reading it back gives the same config.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from llmcore.model.config import LatentConfig, ModelConfig
from llmcore.moe import MoeConfig
from llmcore.positions import RopeScaling

Json = dict[str, Any]

GATED = {
    "silu": "swiglu",
    "gelu": "geglu",
    "gelu_pytorch_tanh": "geglu_tanh",
    "gelu_new": "geglu_tanh",
    "relu": "reglu",
}
PLAIN = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
}
# Matters of training, which checkpoints do not agree on how to store.
TRAINING_FIELDS = {"dropout", "init_std", "z_loss", "mtp_loss"}
MOE_TRAINING_FIELDS = {"bias_step", "balance_loss", "router_z_loss", "bias_balancing"}
NOT_A_MODEL_OF = "all that is built on it"


def _look_up(table: Mapping[str, str], name: str, what: str) -> str:
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def _inverse(table: Mapping[str, str], value: str) -> str:
    """The first name that stands for value; for a value that has none, any name, which then reads back as another."""
    return next((name for name, stands_for in table.items() if stands_for == value), next(iter(table)))


def _rope(hf: Json, context: int, default_base: float = 10000.0) -> Json:
    parameters = dict(hf.get("rope_parameters") or {}) | dict(hf.get("rope_scaling") or {})
    base = parameters.get("rope_theta") or hf.get("rope_theta") or default_base
    kind = parameters.get("rope_type") or parameters.get("type")
    if kind == "dynamic":  # its original length is the model's context, by definition
        parameters["original_max_position_embeddings"] = context
    parameters.setdefault("original_max_position_embeddings", context)
    fraction = parameters.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
    return {"rope_base": float(base), "rope_scaling": RopeScaling.from_dict(parameters), "rotary_fraction": fraction}


def _base_of_llama(hf: Json, default_base: float = 10000.0) -> Json:
    """The fields that every family after GPT-2 shares."""
    context, n_heads = hf.get("max_position_embeddings", 2048), hf["num_attention_heads"]
    return {
        "vocab_size": hf["vocab_size"],
        "context": context,
        "n_layers": hf["num_hidden_layers"],
        "width": hf["hidden_size"],
        "n_heads": n_heads,
        "n_kv_heads": hf.get("num_key_value_heads") or n_heads,
        "head_dim": hf.get("head_dim") or hf["hidden_size"] // n_heads,
        "ffn": _look_up(GATED, hf.get("hidden_act", "silu"), "hidden_act"),
        "ffn_width": hf["intermediate_size"],
        "norm_eps": hf.get("rms_norm_eps", 1e-6),
        "tie_embeddings": bool(hf.get("tie_word_embeddings", False)),
    } | _rope(hf, context, default_base)


def _llama_keys(config: ModelConfig) -> Json:
    """The inverse of `_base_of_llama`. rope_theta and rope_scaling are read by every version of transformers."""
    hf = {
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.width,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _inverse(GATED, config.ffn),
        "intermediate_size": config.ffn_width,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "rope_theta": config.rope_base,
    }
    if config.rope_scaling is not None:
        hf["rope_scaling"] = config.rope_scaling.to_dict()
    if config.rotary_fraction != 1:
        hf["partial_rotary_factor"] = config.rotary_fraction
    return hf


def _window(hf: Json, full_layers: tuple[int, ...] = ()) -> Json:
    """Their window counts the query, ours the tokens before it."""
    size = hf.get("sliding_window")
    if not size or len(full_layers) == hf["num_hidden_layers"]:
        return {}
    return {"window": size - 1, "full_attention_layers": full_layers}


def _window_size(config: ModelConfig) -> int | None:
    return None if config.window is None else config.window + 1


def _layer_types(config: ModelConfig) -> list[str]:
    return ["full_attention" if config.window_of(i) is None else "sliding_attention" for i in range(config.n_layers)]


def _full_layers(hf: Json, default: Callable[[int], bool]) -> tuple[int, ...]:
    kinds = hf.get("layer_types")
    layers = range(hf["num_hidden_layers"])
    return tuple(i for i in layers if (kinds[i] == "full_attention" if kinds else default(i)))


def _read_gpt2(hf: Json) -> ModelConfig:
    if hf.get("scale_attn_by_inverse_layer_idx"):
        raise ValueError(
            "scale_attn_by_inverse_layer_idx=True is not supported: ModelConfig has one scale for all layers"
        )
    return ModelConfig(
        vocab_size=hf["vocab_size"], context=hf["n_positions"], n_layers=hf["n_layer"], width=hf["n_embd"],
        n_heads=hf["n_head"], ffn_width=hf.get("n_inner") or 4 * hf["n_embd"], position="learned", norm="layer",
        ffn=_look_up(PLAIN, hf.get("activation_function", "gelu_new"), "activation_function"), ffn_bias=True,
        norm_eps=hf.get("layer_norm_epsilon", 1e-5), norm_bias=True, qkv_bias=True, out_bias=True,
        attention_scale=None if hf.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=bool(hf.get("tie_word_embeddings", True)),
    )  # fmt: skip


def _write_gpt2(config: ModelConfig) -> Json:
    return {
        "vocab_size": config.vocab_size, "n_positions": config.context, "n_layer": config.n_layers,
        "n_embd": config.width, "n_head": config.n_heads, "n_inner": config.ffn_width,
        "activation_function": _inverse(PLAIN, config.ffn), "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale is None, "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std, "resid_pdrop": config.dropout, "embd_pdrop": config.dropout,
        "attn_pdrop": 0.0,
    }  # fmt: skip


def _read_llama(hf: Json) -> ModelConfig:
    bias = bool(hf.get("attention_bias", False))
    return ModelConfig(**_base_of_llama(hf), qkv_bias=bias, out_bias=bias, ffn_bias=bool(hf.get("mlp_bias", False)))


def _write_llama(config: ModelConfig) -> Json:
    return _llama_keys(config) | {"attention_bias": config.out_bias, "mlp_bias": config.ffn_bias}


def _read_mistral(hf: Json) -> ModelConfig:
    return ModelConfig(**_base_of_llama(hf), **_window(hf))


def _write_mistral(config: ModelConfig) -> Json:
    return _llama_keys(config) | {"sliding_window": _window_size(config)}


def _qwen_window(hf: Json) -> Json:
    if not hf.get("use_sliding_window"):
        return {}
    return _window(hf, _full_layers(hf, lambda layer: layer < hf.get("max_window_layers", 28)))


def _qwen_window_keys(config: ModelConfig) -> Json:
    if config.window is None:
        return {"use_sliding_window": False, "sliding_window": None}
    return {"use_sliding_window": True, "sliding_window": _window_size(config), "layer_types": _layer_types(config)}


def _read_qwen2(hf: Json) -> ModelConfig:
    return ModelConfig(**_base_of_llama(hf), **_qwen_window(hf), qkv_bias=True)


def _write_qwen2(config: ModelConfig) -> Json:
    hf = _llama_keys(config) | _qwen_window_keys(config)
    del hf["head_dim"]  # not part of this family
    return hf


def _read_qwen3(hf: Json) -> ModelConfig:
    bias = bool(hf.get("attention_bias", False))
    return ModelConfig(**_base_of_llama(hf), **_qwen_window(hf), qkv_bias=bias, out_bias=bias, qk_norm=True)


def _write_qwen3(config: ModelConfig) -> Json:
    return _llama_keys(config) | _qwen_window_keys(config) | {"attention_bias": config.out_bias}


def _read_gemma2(hf: Json) -> ModelConfig:
    if hf.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention=True is not supported for gemma2")
    activation = hf.get("hidden_activation") or hf.get("hidden_act") or "gelu_pytorch_tanh"
    shared = _base_of_llama(hf | {"hidden_act": activation, "tie_word_embeddings": hf.get("tie_word_embeddings", True)})
    bias = bool(hf.get("attention_bias", False))
    return ModelConfig(
        **shared, **_window(hf, _full_layers(hf, lambda layer: layer % 2 == 1)), qkv_bias=bias, out_bias=bias,
        norm_placement="double", norm_unit_offset=True, embedding_scale=hf["hidden_size"] ** 0.5,
        attention_scale=hf["query_pre_attn_scalar"] ** -0.5, attention_softcap=hf.get("attn_logit_softcapping"),
        logit_softcap=hf.get("final_logit_softcapping"),
    )  # fmt: skip


def _write_gemma2(config: ModelConfig) -> Json:
    scalar = config.head_dim if config.attention_scale is None else round(config.attention_scale**-2)
    hf = _llama_keys(config)
    return hf | {
        "hidden_activation": hf.pop("hidden_act"), "attention_bias": config.out_bias, "query_pre_attn_scalar": scalar,
        "attn_logit_softcapping": config.attention_softcap, "final_logit_softcapping": config.logit_softcap,
        "sliding_window": _window_size(config), "layer_types": _layer_types(config),
    }  # fmt: skip


def _read_mixtral(hf: Json) -> ModelConfig:
    moe = MoeConfig(
        n_experts=hf.get("num_local_experts", 8), top_k=hf.get("num_experts_per_tok", 2),
        expert_width=hf["intermediate_size"], balance_loss=hf.get("router_aux_loss_coef", 0.0),
    )  # fmt: skip
    return ModelConfig(**_base_of_llama(hf, default_base=1e6), **_window(hf), moe=moe)


def _write_mixtral(config: ModelConfig) -> Json:
    moe = config.moe
    return _llama_keys(config) | {
        "sliding_window": _window_size(config), "num_local_experts": moe.n_experts, "num_experts_per_tok": moe.top_k,
        "intermediate_size": moe.expert_width, "router_aux_loss_coef": moe.balance_loss,
    }  # fmt: skip


def _read_qwen3_moe(hf: Json) -> ModelConfig:
    every, dense = hf.get("decoder_sparse_step", 1), hf.get("mlp_only_layers") or ()
    layers = range(hf["num_hidden_layers"])
    moe = MoeConfig(
        n_experts=hf.get("num_experts") or hf["num_local_experts"], top_k=hf["num_experts_per_tok"],
        expert_width=hf["moe_intermediate_size"], normalize=bool(hf.get("norm_topk_prob", False)),
        dense_layers=tuple(i for i in layers if i in dense or (i + 1) % every),
        balance_loss=hf.get("router_aux_loss_coef", 0.0),
    )  # fmt: skip
    window = _window(hf) if hf.get("use_sliding_window") else {}
    bias = bool(hf.get("attention_bias", False))
    return ModelConfig(**_base_of_llama(hf), **window, qkv_bias=bias, out_bias=bias, qk_norm=True, moe=moe)


def _write_qwen3_moe(config: ModelConfig) -> Json:
    moe = config.moe
    return _llama_keys(config) | {
        "attention_bias": config.out_bias, "use_sliding_window": config.window is not None,
        "sliding_window": _window_size(config), "num_experts": moe.n_experts, "num_experts_per_tok": moe.top_k,
        "moe_intermediate_size": moe.expert_width, "norm_topk_prob": moe.normalize, "decoder_sparse_step": 1,
        "mlp_only_layers": list(moe.dense_layers), "router_aux_loss_coef": moe.balance_loss,
    }  # fmt: skip


def _read_deepseek_v3(hf: Json) -> ModelConfig:
    latent = LatentConfig(
        kv_rank=hf["kv_lora_rank"], q_rank=hf.get("q_lora_rank"), nope_dim=hf["qk_nope_head_dim"],
        rope_dim=hf["qk_rope_head_dim"], value_dim=hf["v_head_dim"],
    )  # fmt: skip
    moe = MoeConfig(
        n_experts=hf["n_routed_experts"], top_k=hf["num_experts_per_tok"], expert_width=hf["moe_intermediate_size"],
        n_shared=hf.get("n_shared_experts") or 0, router="sigmoid", normalize=bool(hf.get("norm_topk_prob", True)),
        scale=hf.get("routed_scaling_factor", 1.0), n_groups=hf.get("n_group") or 1, top_groups=hf.get("topk_group") or 1,
        bias_balancing=True, dense_layers=tuple(range(min(hf.get("first_k_dense_replace", 0), hf["num_hidden_layers"]))),
    )  # fmt: skip
    bias = bool(hf.get("attention_bias", False))
    shared = _base_of_llama(hf)
    del shared["head_dim"], shared["rotary_fraction"]
    return ModelConfig(
        **shared, latent=latent, moe=moe, qkv_bias=bias, out_bias=bias, n_mtp=hf.get("num_nextn_predict_layers") or 0,
        rope_layout="interleaved" if hf.get("rope_interleave", True) else "half",
    )  # fmt: skip


def _write_deepseek_v3(config: ModelConfig) -> Json:
    moe, latent = config.moe, config.latent
    hf = _llama_keys(config) | {
        "kv_lora_rank": latent.kv_rank, "q_lora_rank": latent.q_rank, "qk_nope_head_dim": latent.nope_dim,
        "qk_rope_head_dim": latent.rope_dim, "v_head_dim": latent.value_dim, "n_routed_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k, "moe_intermediate_size": moe.expert_width, "n_shared_experts": moe.n_shared,
        "norm_topk_prob": moe.normalize, "routed_scaling_factor": moe.scale, "n_group": moe.n_groups,
        "topk_group": moe.top_groups, "first_k_dense_replace": len(moe.dense_layers), "scoring_func": "sigmoid",
        "attention_bias": config.out_bias, "num_nextn_predict_layers": config.n_mtp,
        "rope_interleave": config.rope_layout == "interleaved",
    }  # fmt: skip
    del hf["head_dim"]
    return hf


@dataclass(frozen=True)
class Family:
    """One architecture as Hugging Face names it."""

    model_type: str
    architecture: str
    read: Callable[[Json], ModelConfig]
    write: Callable[[ModelConfig], Json]


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family("gpt2", "GPT2LMHeadModel", _read_gpt2, _write_gpt2),
        Family("llama", "LlamaForCausalLM", _read_llama, _write_llama),
        Family("mistral", "MistralForCausalLM", _read_mistral, _write_mistral),
        Family("qwen2", "Qwen2ForCausalLM", _read_qwen2, _write_qwen2),
        Family("qwen3", "Qwen3ForCausalLM", _read_qwen3, _write_qwen3),
        Family("gemma2", "Gemma2ForCausalLM", _read_gemma2, _write_gemma2),
        Family("mixtral", "MixtralForCausalLM", _read_mixtral, _write_mixtral),
        Family("qwen3_moe", "Qwen3MoeForCausalLM", _read_qwen3_moe, _write_qwen3_moe),
        Family("deepseek_v3", "DeepseekV3ForCausalLM", _read_deepseek_v3, _write_deepseek_v3),
    )
}


def config_from_hf(hf: Json) -> ModelConfig:
    """The `ModelConfig` of a config.json's contents.

    Raises: ValueError for a model_type that is not supported, a missing key, or an option that ModelConfig cannot say.
    """
    model_type = hf.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"model_type must be one of {', '.join(FAMILIES)}, got {model_type!r}")
    try:
        return FAMILIES[model_type].read(hf)
    except KeyError as missing:
        raise ValueError(f"config.json of a {model_type} model must have the key {missing}") from None


def config_to_hf(config: ModelConfig, family: str | None = None) -> Json:
    """The contents of config.json for the family, or for the first family that can say this config.

    Raises: ValueError when the family (or none of them) can say it, naming the fields in the way.
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    obstacles = {}
    for candidate in [FAMILIES[family]] if family else FAMILIES.values():
        hf, different = _try(candidate, config)
        if not different:
            return {"architectures": [candidate.architecture], "model_type": candidate.model_type} | hf
        obstacles[candidate.model_type] = different
    nearest = min(obstacles, key=lambda name: (NOT_A_MODEL_OF in obstacles[name], len(obstacles[name])))
    raise ValueError(
        f"no Hugging Face family can say this config; nearest is {nearest}, which differs in "
        f"{', '.join(obstacles[nearest])}; save the state dict with llmcore's own checkpoint instead"
    )


def _try(family: Family, config: ModelConfig) -> tuple[Json, list[str]]:
    """(config.json, fields that come back otherwise)."""
    needs = {"mixtral": ("moe",), "qwen3_moe": ("moe",), "deepseek_v3": ("moe", "latent")}.get(family.model_type, ())
    missing = [name for name in needs if getattr(config, name) is None]
    if missing:
        return {}, [*missing, NOT_A_MODEL_OF]
    hf = family.write(config)
    back = family.read(hf)
    return hf, [
        field.name
        for field in fields(ModelConfig)
        if field.name not in TRAINING_FIELDS and not _same(getattr(config, field.name), getattr(back, field.name))
    ]


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, MoeConfig) and isinstance(theirs, MoeConfig):
        kept = [field.name for field in fields(MoeConfig) if field.name not in MOE_TRAINING_FIELDS]
        return all(_same(getattr(ours, name), getattr(theirs, name)) for name in kept)
    if isinstance(ours, float) and isinstance(theirs, float | int):
        return math.isclose(ours, theirs, rel_tol=1e-9)
    return ours == theirs
