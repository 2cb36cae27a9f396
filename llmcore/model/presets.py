"""Named architectures: tiny ones for lessons and tests, two to train, and published models.

Sizes are those of the published configurations; `PRESETS["gpt2-124m"].replace(context=256)` starts from one of them.
"""

from types import MappingProxyType

from llmcore.model.config import LatentConfig, ModelConfig
from llmcore.moe import MoeConfig
from llmcore.positions import RopeScaling


def _gpt2(width: int, n_layers: int, n_heads: int) -> ModelConfig:
    """Source: Language Models are Unsupervised Multitask Learners, table 2."""
    return ModelConfig(
        vocab_size=50257, context=1024, width=width, n_layers=n_layers, n_heads=n_heads, position="learned",
        norm="layer", norm_eps=1e-5, norm_bias=True, qkv_bias=True, out_bias=True, ffn="gelu_tanh", ffn_bias=True,
    )  # fmt: skip


def _llama(**sizes) -> ModelConfig:
    return ModelConfig(**({"norm_eps": 1e-5, "tie_embeddings": False} | sizes))


LLAMA31_SCALING = RopeScaling(
    kind="llama3", factor=8.0, original_context=8192, low_freq_factor=1.0, high_freq_factor=4.0
)

PRESETS: MappingProxyType[str, ModelConfig] = MappingProxyType(
    {
        # For lessons and tests: seconds on a laptop.
        "tiny": ModelConfig(vocab_size=256, context=128, width=64, n_layers=2, n_heads=4),
        "tiny-gpt2": _gpt2(64, 2, 4).replace(vocab_size=256, context=128),
        "tiny-moe": ModelConfig(
            vocab_size=256, context=128, width=64, n_layers=2, n_heads=4,
            moe=MoeConfig(n_experts=4, top_k=2, expert_width=96, balance_loss=0.01),
        ),
        "tiny-mla": ModelConfig(
            vocab_size=256, context=128, width=64, n_layers=2, n_heads=4, rope_layout="interleaved",
            latent=LatentConfig(kv_rank=16, nope_dim=12, rope_dim=8, value_dim=12),
        ),
        "llama-0.8m": _llama(vocab_size=256, context=256, width=128, n_layers=4, n_heads=4, ffn_width=344),
        # To train.
        "gpt2-124m": _gpt2(768, 12, 12),
        "llama-350m": _llama(
            vocab_size=50304, context=2048, width=1024, n_layers=24, n_heads=16, ffn_width=2816, tie_embeddings=True
        ),
        # Published.
        "gpt2-medium": _gpt2(1024, 24, 16),
        "gpt2-large": _gpt2(1280, 36, 20),
        "gpt2-xl": _gpt2(1600, 48, 25),
        # Source: arXiv:2407.21783, table 3.
        "llama-3.1-8b": _llama(
            vocab_size=128256, context=131072, width=4096, n_layers=32, n_heads=32, n_kv_heads=8, ffn_width=14336,
            rope_base=500000.0, rope_scaling=LLAMA31_SCALING,
        ),
        "llama-3.2-1b": _llama(
            vocab_size=128256, context=131072, width=2048, n_layers=16, n_heads=32, n_kv_heads=8, ffn_width=8192,
            rope_base=500000.0, tie_embeddings=True,
            rope_scaling=RopeScaling(kind="llama3", factor=32.0, original_context=8192),
        ),
        # Source: Qwen2 technical report, arXiv:2407.10671, table 1; Qwen2.5, arXiv:2412.15115.
        "qwen2.5-0.5b": ModelConfig(
            vocab_size=151936, context=32768, width=896, n_layers=24, n_heads=14, n_kv_heads=2, ffn_width=4864,
            rope_base=1e6, qkv_bias=True,
        ),
        # Source: Qwen3 technical report, arXiv:2505.09388, table 1.
        "qwen3-0.6b": ModelConfig(
            vocab_size=151936, context=40960, width=1024, n_layers=28, n_heads=16, n_kv_heads=8, head_dim=128,
            ffn_width=3072, rope_base=1e6, qk_norm=True,
        ),
        "qwen3-30b-a3b": ModelConfig(
            vocab_size=151936, context=40960, width=2048, n_layers=48, n_heads=32, n_kv_heads=4, head_dim=128,
            ffn_width=6144, rope_base=1e6, qk_norm=True, tie_embeddings=False,
            moe=MoeConfig(n_experts=128, top_k=8, expert_width=768, balance_loss=0.001),
        ),
        # Source: arXiv:2310.06825, table 1. A window of 4096 counts the query.
        "mistral-7b": _llama(
            vocab_size=32000, context=32768, width=4096, n_layers=32, n_heads=32, n_kv_heads=8, ffn_width=14336,
            window=4095,
        ),
        # Source: arXiv:2401.04088, table 1.
        "mixtral-8x7b": _llama(
            vocab_size=32000, context=32768, width=4096, n_layers=32, n_heads=32, n_kv_heads=8, ffn_width=14336,
            rope_base=1e6, moe=MoeConfig(n_experts=8, top_k=2, expert_width=14336, balance_loss=0.02),
        ),
        # Source: arXiv:2408.00118, table 1.
        "gemma-2-2b": ModelConfig(
            vocab_size=256000, context=8192, width=2304, n_layers=26, n_heads=8, n_kv_heads=4, head_dim=256,
            ffn_width=9216, ffn="geglu_tanh", norm_placement="double", norm_unit_offset=True, window=4095,
            full_attention_layers=tuple(range(1, 26, 2)), attention_softcap=50.0, logit_softcap=30.0,
            attention_scale=256**-0.5, embedding_scale=2304**0.5,
        ),
        # Source: arXiv:2412.19437, section 4.2.
        "deepseek-v3": ModelConfig(
            vocab_size=129280, context=163840, width=7168, n_layers=61, n_heads=128, ffn_width=18432,
            latent=LatentConfig(kv_rank=512, q_rank=1536, nope_dim=128, rope_dim=64, value_dim=128),
            rope_layout="interleaved", tie_embeddings=False, n_mtp=1,
            rope_scaling=RopeScaling(
                kind="yarn", factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0
            ),
            moe=MoeConfig(
                n_experts=256, top_k=8, expert_width=2048, n_shared=1, router="sigmoid", scale=2.5, n_groups=8,
                top_groups=4, bias_balancing=True, dense_layers=(0, 1, 2),
            ),
        ),
    }
)  # fmt: skip
"""Name to config; not to be written to."""
