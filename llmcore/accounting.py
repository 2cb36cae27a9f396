"""What a model costs: parameters, arithmetic, bytes, and how much of a machine a run used.

First functions of plain numbers, then the same for a whole `ModelConfig` (any object with its fields). A FLOP is one addition
or multiplication, so a product of (m, k) and (k, n) matrices takes 2mkn. Counted are matrix products; norms, softmax and
activations are left out on purpose, they are below a percent. Bytes are plain bytes; 1 GiB is 2^30.

Taught in: 02_attention_scaling (cache, roofline), 06_lora (fine-tuning), 08_flash_attention (roofline).
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from llmcore.model.config import ModelConfig


@dataclass(frozen=True)
class Hardware:
    """Published peaks of one device: dense FLOP/s by dtype, memory bandwidth in bytes/s, memory in bytes."""

    name: str
    flops: dict[str, float]
    bandwidth: float
    memory_bytes: int
    source: str


_GB, _T = 10**9, 1e12
_HOPPER = {
    "float32": 66.9 * _T,
    "tf32": 494.7 * _T,
    "bfloat16": 989.4 * _T,
    "float16": 989.4 * _T,
    "float8": 1978.9 * _T,
}
_AMPERE = {"float32": 19.5 * _T, "tf32": 156 * _T, "bfloat16": 312 * _T, "float16": 312 * _T}

# Dense rates. Datasheets from Hopper on print twice as much, for 2:4 sparsity. GeForce rates accumulate in float32.
HARDWARE: dict[str, Hardware] = {
    hardware.name: hardware
    for hardware in (
        Hardware("B200", {"bfloat16": 2250 * _T, "float16": 2250 * _T, "float8": 4500 * _T}, 8e12, 180 * _GB,
                 "NVIDIA DGX B200 datasheet, divided by 8 devices"),
        Hardware("H200", _HOPPER, 4.8e12, 141 * _GB, "NVIDIA H200 Tensor Core GPU datasheet, SXM"),
        Hardware("H100", _HOPPER, 3.35e12, 80 * _GB, "NVIDIA H100 Tensor Core GPU datasheet, SXM"),
        Hardware("A100-SXM4-80GB", _AMPERE, 2.039e12, 80 * _GB, "NVIDIA A100 Tensor Core GPU datasheet"),
        Hardware("A100-SXM4-40GB", _AMPERE, 1.555e12, 40 * _GB, "NVIDIA A100 Tensor Core GPU datasheet"),
        Hardware("V100", {"float32": 15.7 * _T, "float16": 125 * _T}, 0.9e12, 32 * _GB, "NVIDIA V100 datasheet, SXM2"),
        Hardware("L4", {"float32": 30.3 * _T, "tf32": 60 * _T, "bfloat16": 121 * _T, "float16": 121 * _T}, 0.3e12,
                 24 * _GB, "NVIDIA L4 Tensor Core GPU datasheet"),
        Hardware("T4", {"float32": 8.1 * _T, "float16": 65 * _T}, 0.32e12, 16 * _GB, "NVIDIA T4 datasheet"),
        Hardware("RTX 4090", {"float32": 82.6 * _T, "bfloat16": 165.2 * _T, "float16": 165.2 * _T}, 1.008e12, 24 * _GB,
                 "NVIDIA Ada GPU Architecture whitepaper, appendix A"),
        Hardware("RTX 3090", {"float32": 35.6 * _T, "bfloat16": 71 * _T, "float16": 71 * _T}, 0.936e12, 24 * _GB,
                 "NVIDIA GA102 GPU Architecture whitepaper, appendix A"),
    )
}  # fmt: skip
"""Published peaks by a part of the name that `torch.cuda.get_device_name()` gives."""


def find_hardware(device_name: str) -> Hardware:
    """The entry of `HARDWARE` whose name is a part of the device's name, in any case.

    Slower variants of one name (PCIe, NVL, laptop) are not taken for it.

    >>> find_hardware("NVIDIA H200").bandwidth
    4800000000000.0

    Raises: ValueError when there is none.
    """
    variant = re.search(r"\b(pcie|nvl|laptop)\b", device_name, re.IGNORECASE)
    for name, hardware in HARDWARE.items():
        if not variant and re.search(rf"\b{re.escape(name)}\b", device_name, re.IGNORECASE):
            return hardware
    raise ValueError(
        f"no published peaks for {device_name!r}, only for {', '.join(HARDWARE)}; pass the numbers yourself"
    )


def matmul_flops(m: int, k: int, n: int, batch: int = 1) -> int:
    """FLOPs of `batch` products of (m, k) and (k, n).

    >>> matmul_flops(2, 3, 4)
    48
    """
    return 2 * m * k * n * batch


def visible_pairs(t_q: int, t_k: int, *, causal: bool = False, window: int | None = None) -> int:
    """Query-key pairs that attention computes: bottom-right causal, `window` tokens before the query at most.

    >>> visible_pairs(4, 4), visible_pairs(4, 4, causal=True), visible_pairs(4, 4, causal=True, window=1)
    (16, 10, 7)
    """
    offset = t_k - t_q
    right = _sum_clamped(offset + 1, t_q, t_k) if causal else t_q * t_k
    left = 0 if window is None else _sum_clamped(offset - window, t_q, t_k)
    return right - min(left, right)


def _sum_clamped(first: int, count: int, most: int) -> int:
    """The sum of first, first + 1, ... (`count` terms), each clamped to 0..most: keys up to a border, over the queries."""
    last = first + count - 1
    low, high = max(first, 1), min(last, most)
    rising = (low + high) * (high - low + 1) // 2 if high >= low else 0
    return rising + most * max(0, last - max(first - 1, most))


def attention_flops(
    batch: int,
    n_heads: int,
    t_q: int,
    t_k: int,
    head_dim: int,
    *,
    value_dim: int | None = None,
    causal: bool = False,
    window: int | None = None,
) -> int:
    """FLOPs of scores and weighted sum in one layer's forward pass, projections aside; hidden pairs are not counted.

    Grouped keys change nothing here. The backward pass takes twice as much, 2.5 times when it recomputes the scores.

    >>> attention_flops(1, 2, 3, 5, 4)
    480
    """
    pairs = visible_pairs(t_q, t_k, causal=causal, window=window)
    return 2 * batch * n_heads * pairs * (head_dim + (head_dim if value_dim is None else value_dim))


def kv_cache_bytes(
    n_layers: int, n_kv_heads: int, head_dim: int, seq_len: int, batch: int = 1, bytes_per_value: float = 2
) -> int:
    """Bytes of the keys and values of `seq_len` tokens.

    >>> kv_cache_bytes(96, 96, 128, 2048, 1, 2) / 2**30  # GPT-3
    9.0
    """
    return round(2 * n_layers * n_kv_heads * head_dim * seq_len * batch * bytes_per_value)


def mla_cache_bytes(
    n_layers: int, kv_rank: int, rope_dim: int, seq_len: int, batch: int = 1, bytes_per_value: float = 2
) -> int:
    """Bytes of the latents and shared rotary keys that multi-head latent attention caches.

    >>> mla_cache_bytes(1, 512, 64, 1) / kv_cache_bytes(1, 1, 128, 1)
    2.25

    Source: DeepSeek-V2, arXiv:2405.04434, table 1.
    """
    return round(n_layers * (kv_rank + rope_dim) * seq_len * batch * bytes_per_value)


def arithmetic_intensity(flops: float, bytes_moved: float) -> float:
    """FLOPs per byte moved between memory and processor.

    Raises: ValueError when bytes_moved is not positive.
    """
    if bytes_moved <= 0:
        raise ValueError(f"bytes_moved must be positive, got {bytes_moved}")
    return flops / bytes_moved


@dataclass(frozen=True)
class Roofline:
    """Where a piece of work stands under a roof: its least time, what bounds it, and the speed that this allows."""

    seconds: float
    bound: str
    intensity: float
    flops_per_s: float


def roofline(flops: float, bytes_moved: float, peak_flops: float, bandwidth: float) -> Roofline:
    """The best case when arithmetic and traffic overlap: the slower of flops / peak_flops and bytes_moved / bandwidth.

    `bound` is "compute" or "memory"; at the ridge, "compute".

    >>> roofline(1e12, 1e12, peak_flops=1e15, bandwidth=1e12).bound
    'memory'

    Raises: ValueError when a rate or bytes_moved is not positive.
    Source: Williams, Waterman and Patterson, Roofline, CACM 2009.
    """
    if peak_flops <= 0 or bandwidth <= 0:
        raise ValueError(f"peak_flops and bandwidth must be positive, got {peak_flops} and {bandwidth}")
    intensity = arithmetic_intensity(flops, bytes_moved)
    seconds = max(flops / peak_flops, bytes_moved / bandwidth)
    bound = "compute" if intensity >= peak_flops / bandwidth else "memory"
    return Roofline(seconds, bound, intensity, flops / seconds)


def mfu(
    tokens_per_s: float,
    flops_per_token: float,
    peak_flops: float,
    n_devices: int = 1,
) -> float:
    """Model FLOPs utilisation: the share of the devices' peak that the model's own arithmetic used, recomputing aside.

    >>> mfu(tokens_per_s=1e5, flops_per_token=1e9, peak_flops=1e15)
    0.1

    Raises: ValueError when the peak or the number of devices is not positive.
    Source: PaLM, arXiv:2204.02311, appendix B.
    """
    if peak_flops <= 0 or n_devices < 1:
        raise ValueError(f"peak_flops must be positive and n_devices at least 1, got {peak_flops} and {n_devices}")
    return tokens_per_s * flops_per_token / (peak_flops * n_devices)


# Bytes a parameter of (weights, gradients, master weights, one optimizer state).
_PRECISIONS = {"mixed": (2, 2, 4, 4), "bfloat16": (2, 2, 0, 2), "float32": (4, 4, 0, 4)}
_OPTIMIZER_STATES = {"adamw": 2, "muon": 1, "momentum": 1, "sgd": 0}


def training_bytes(
    model: "ModelConfig | nn.Module | int", *, precision: str = "mixed", optimizer: str = "adamw"
) -> int:
    """Bytes of weights, gradients and optimizer states, activations aside; `model` may be a number of parameters.

    "mixed" holds half-precision weights and gradients beside float32 master weights and states: 16 bytes a parameter with
    AdamW. "float32" and "bfloat16" hold everything in that dtype. Muon is counted as if it took every parameter.

    >>> training_bytes(1000), training_bytes(1000, optimizer="sgd")
    (16000, 8000)

    Raises: ValueError for another precision or optimizer.
    Source: ZeRO, arXiv:1910.02054, section 3.1.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    if optimizer not in _OPTIMIZER_STATES:
        raise ValueError(f"optimizer must be one of {', '.join(_OPTIMIZER_STATES)}, got {optimizer!r}")
    count = model if isinstance(model, int) else count_parameters(model)
    weights, gradients, master, state = _PRECISIONS[precision]
    return count * (weights + gradients + master + state * _OPTIMIZER_STATES[optimizer])


NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
"""Bits of a weight in NF4: its code, its share of an 8-bit scale of 64, and of a float32 scale of 256 of those."""


def finetune_bytes(n_params: int, n_trainable: int, method: str) -> int:
    """Bytes that fine-tuning holds, activations aside, of a model of n_params, by method.

    - "full": 16 a parameter, mixed precision with AdamW (`training_bytes`); n_trainable is not looked at
    - "lora": 2 a frozen parameter in half precision, 16 a trainable one
    - "qlora": `NF4_BITS` bits a frozen parameter, rounded up to bytes, 16 bytes a trainable one

    >>> [round(finetune_bytes(7 * 10**9, 20 * 10**6, method) / 1e9, 1) for method in ("full", "lora", "qlora")]
    [112.0, 14.3, 3.9]

    Raises: ValueError for another method, or numbers of parameters below 0.
    Source: ZeRO, arXiv:1910.02054, section 3.1; QLoRA, arXiv:2305.14314, section 3.  Taught in: 06_lora.
    """
    if n_params < 0 or n_trainable < 0:
        raise ValueError(f"numbers of parameters must be at least 0, got {n_params} and {n_trainable}")
    if method == "full":
        return training_bytes(n_params)
    if method == "lora":
        return 2 * n_params + training_bytes(n_trainable)
    if method == "qlora":
        return nf4_bytes(n_params) + training_bytes(n_trainable)
    raise ValueError(f"method must be full, lora or qlora, got {method!r}")


def nf4_bytes(n_params: int) -> int:
    """ceil(n_params * `NF4_BITS` / 8), in whole numbers.

    >>> nf4_bytes(64 * 256)
    8452
    """
    return -(-n_params * 2113 // (8 * 512))  # 4 + 1/8 + 1/512 = 2113/512 bits


def activation_bytes(
    n_layers: int,
    width: int,
    n_heads: int,
    context: int,
    batch: int = 1,
    *,
    flash: bool = True,
    checkpoint: bool = False,
) -> int:
    """Bytes that a GPT block stack keeps for the backward pass in half precision: 34 a width-sized value, a layer.

    Without `flash`, 5 bytes more for each head and query-key pair; with `checkpoint`, each block's input alone (2 bytes).

    >>> activation_bytes(1, 100, 4, 10) == 34 * 10 * 100
    True

    Source: Korthikanti et al., arXiv:2205.05198, equation 2 (with dropout masks, a 4x feed-forward, no parallelism).
    """
    if checkpoint:
        return 2 * n_layers * batch * context * width
    scores = 0 if flash else 5 * n_heads * context * context * batch
    return n_layers * (34 * batch * context * width + scores)


def count_parameters(model: "ModelConfig | nn.Module", *, active: bool = False) -> int:
    """Trainable and frozen parameters, shared ones once. Of a config with `active`, those that one token passes through.

    >>> from llmcore.model import ModelConfig
    >>> count_parameters(ModelConfig(vocab_size=7, width=4, n_heads=2, n_layers=1, ffn_width=8))
    200
    """
    if hasattr(model, "parameters"):
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(parameter_breakdown(model, active=active).values())


def parameter_breakdown(config: "ModelConfig", *, active: bool = False) -> dict[str, int]:
    """Parameters by part: embedding, positions, attention, ffn, router, norms, head, mtp; see `count_parameters`.

    A tied head counts as 0. `active` leaves out the experts that a token does not reach and the MTP modules.
    """
    width = config.width
    parts = dict.fromkeys(("attention", "ffn", "router", "norms"), 0)
    for layer in range(config.n_layers):
        for name, count in _block_parameters(config, layer, active).items():
            parts[name] += count
    if config.norm_placement in ("pre", "double"):
        parts["norms"] += _norm_parameters(config)
    mtp_block = sum(_block_parameters(config, config.n_layers - 1, active).values())
    mtp = config.n_mtp * (2 * width * width + 3 * _norm_parameters(config) + mtp_block)
    return {
        "embedding": config.vocab_size * width,
        "positions": config.context * width if config.position == "learned" else 0,
        **parts,
        "head": 0 if config.tie_embeddings else config.vocab_size * width,
        "mtp": 0 if active else mtp,
    }


def _norm_parameters(config: "ModelConfig") -> int:
    return config.width * (2 if config.norm == "layer" and config.norm_bias else 1)


def _block_parameters(config: "ModelConfig", layer: int, active: bool) -> dict[str, int]:
    norms = (1 if config.parallel else 2) + (2 if config.norm_placement == "double" else 0)
    matrices, biases, inner_norms = _attention_parameters(config)
    counts = {"attention": matrices + biases, "norms": norms * _norm_parameters(config) + inner_norms, "router": 0}
    n_matrices = 3 if _is_gated(config) else 2
    if config.is_moe(layer):
        experts = (config.moe.top_k if active else config.moe.n_experts) + config.moe.n_shared
        counts["ffn"] = experts * n_matrices * config.width * config.moe.expert_width
        counts["router"] = config.width * config.moe.n_experts
    else:
        ffn_biases = (n_matrices - 1) * config.ffn_width + config.width if config.ffn_bias else 0
        counts["ffn"] = n_matrices * config.width * config.ffn_width + ffn_biases
    return counts


def _is_gated(config: "ModelConfig") -> bool:
    from llmcore.layers import ffn_parts

    return ffn_parts(config.ffn)[1]


def _attention_parameters(config: "ModelConfig") -> tuple[int, int, int]:
    """Parameters of one layer's projections, of their biases, and of the norms between them."""
    width, q_width = config.width, config.n_heads * config.head_dim
    if config.latent is None:
        kv_width = config.n_kv_heads * config.head_dim
        matrices = 2 * width * q_width + 2 * width * kv_width
        biases = (q_width + 2 * kv_width if config.qkv_bias else 0) + (width if config.out_bias else 0)
        return matrices, biases, 2 * config.head_dim if config.qk_norm else 0
    latent = config.latent
    down = latent.kv_rank + latent.rope_dim
    up = config.n_heads * (latent.nope_dim + latent.value_dim)
    matrices = width * down + latent.kv_rank * up + config.n_heads * latent.value_dim * width
    norms = latent.kv_rank
    if latent.q_rank is None:
        matrices += width * q_width
    else:
        matrices += latent.q_rank * (width + q_width)
        norms += latent.q_rank
        down += latent.q_rank
    return matrices, (down if config.qkv_bias else 0) + (width if config.out_bias else 0), norms


def flops_per_token(
    config: "ModelConfig", context: int | None = None, *, formula: str = "exact", training: bool = True
) -> float:
    """Mean FLOPs for each token of sequences of `context` tokens (the config's own when left out).

    - "exact": every matrix product of the forward pass, active experts only, and the visible pairs of attention, so a
      causal token sees (context + 1) / 2 keys in the mean. MTP modules count in training.
    - "nanogpt": 6N + 12LHDT with N all parameters but the learned positions: causality is not counted.

    Training is forward and backward, three times the forward pass; recomputing for memory's sake is not counted.

    >>> from llmcore.model import PRESETS
    >>> round(flops_per_token(PRESETS["gpt2-124m"], formula="nanogpt") / 1e9, 3)
    0.855

    Raises: ValueError for another formula.
    Source: nanoGPT and PaLM, arXiv:2204.02311, appendix B.
    """
    context = config.context if context is None else context
    factor = 3 if training else 1
    if formula == "nanogpt":
        parts = parameter_breakdown(config, active=True)
        counted = sum(parts.values()) - parts["positions"]
        return factor * (2 * counted + 4 * config.n_layers * config.n_heads * config.head_dim * context)
    if formula != "exact":
        raise ValueError(f"formula must be exact or nanogpt, got {formula!r}")
    layers = [_block_flops(config, layer, context) for layer in range(config.n_layers)]
    head = 2 * config.width * config.vocab_size
    mtp = config.n_mtp * (4 * config.width**2 + layers[-1] + head) if training else 0
    return factor * (sum(layers) + head + mtp)


def _block_flops(config: "ModelConfig", layer: int, context: int) -> float:
    """Forward FLOPs of one block for each token, in the mean."""
    n_matrices = 3 if _is_gated(config) else 2
    if config.is_moe(layer):
        reached = (config.moe.top_k + config.moe.n_shared) * config.moe.expert_width
        ffn = n_matrices * config.width * reached + config.width * config.moe.n_experts
    else:
        ffn = n_matrices * config.width * config.ffn_width
    seen = attention_flops(
        1, config.n_heads, context, context, config.head_dim,
        value_dim=config.value_dim, causal=config.causal, window=config.window_of(layer),
    )  # fmt: skip
    return 2 * (_attention_parameters(config)[0] + ffn) + seen / context


def model_cache_bytes(config: "ModelConfig", seq_len: int, batch: int = 1, bytes_per_value: float = 2) -> int:
    """Bytes that a model's cache holds after `seq_len` tokens: windows and latent attention counted.

    >>> from llmcore.model import PRESETS
    >>> model_cache_bytes(PRESETS["llama-3.1-8b"], 8192) // 2**20
    1024
    """
    total = 0
    for layer in range(config.n_layers):
        window = config.window_of(layer)
        held = seq_len if window is None else min(seq_len, window)
        if config.latent is not None:
            total += mla_cache_bytes(1, config.latent.kv_rank, config.latent.rope_dim, held, batch, bytes_per_value)
        else:
            total += kv_cache_bytes(1, config.n_kv_heads, config.head_dim, held, batch, bytes_per_value)
    return total
