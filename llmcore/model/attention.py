"""Self-attention of the Transformer: MHA, GQA and MQA in one class, multi-head latent attention (MLA) in another.

What a token may see and where it stands is the same for every layer, so it is worked out once per forward and handed
down as a `Scene`. Scores, softmax and masks themselves live in `llmcore.attention`.

Taught in: 02_attention_scaling, 04_rope.
"""

# Shapes: B batch, T new tokens, S keys in sight, H query heads, K key/value heads, D head dim, E width, R rotated pairs.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from llmcore.attention import attention
from llmcore.layers import Linear
from llmcore.model.cache import ModelCache
from llmcore.model.config import ModelConfig
from llmcore.norms import RMSNorm
from llmcore.positions import rotate, score_factor


@dataclass
class Scene:
    """What the tokens of one forward have in common across layers."""

    rotation: tuple[Tensor, Tensor] | None = None
    """Cosines and sines of RoPE, broadcastable to (B, H, T, R)."""
    same_document: Bool[Tensor, "B 1 T S"] | None = None
    """True where query and key belong to one document and neither is padding; None when all do."""
    alibi: Float[Tensor, "H T S"] | None = None
    """ALiBi's additive bias."""
    causal: bool = True
    """Hide the future."""


def attend(
    q: Float[Tensor, "B H T D"],
    k: Float[Tensor, "B K S D"],
    v: Float[Tensor, "B K S Dv"],
    scene: Scene,
    *,
    scale: float | None,
    window: int | None,
    softcap: float | None,
    use_alibi: bool = False,
) -> Float[Tensor, "B H T Dv"]:
    """Attention of the last T of S tokens over all S, under the scene's masks.

    Source: Attention Is All You Need, arXiv:1706.03762, eq. 1.
    """
    mask = scene.same_document
    if mask is not None:
        mask = mask[..., -k.shape[2] :]  # a windowed layer stores only the newest keys
    if use_alibi:
        bias = scene.alibi[..., -k.shape[2] :].to(q.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -math.inf)
    return attention(q, k, v, mask=mask, causal=scene.causal, scale=scale, window=window, softcap=softcap)


def split_heads(x: Float[Tensor, "B T N"], head_dim: int) -> Float[Tensor, "B H T D"]:
    """Columns cut into heads, heads moved before time."""
    return x.view(x.shape[0], x.shape[1], -1, head_dim).transpose(1, 2)


def join_heads(x: Float[Tensor, "B H T D"]) -> Float[Tensor, "B T N"]:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Multi-head attention whose keys and values may have fewer heads than the queries (GQA; one: MQA).

    Source: Attention Is All You Need, arXiv:1706.03762; GQA, arXiv:2305.13245; QK-norm, arXiv:2010.04245.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        self.softcap = config.attention_softcap
        self.window = config.window_of(layer)
        self.layout = config.rope_layout
        self.use_rope = config.position == "rope" and config.has_positions(layer)
        self.use_alibi = config.position == "alibi" and config.has_positions(layer)
        kv_width = config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.width, config.n_heads * config.head_dim, bias=config.qkv_bias)
        self.k_proj = Linear(config.width, kv_width, bias=config.qkv_bias)
        self.v_proj = Linear(config.width, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(config.n_heads * config.head_dim, config.width, bias=config.out_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps, config.norm_unit_offset) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps, config.norm_unit_offset) if config.qk_norm else None

    def forward(
        self, x: Float[Tensor, "B T E"], scene: Scene, cache: ModelCache | None = None
    ) -> Float[Tensor, "B T E"]:
        q_BHTD = split_heads(self.q_proj(x), self.head_dim)
        k_BKTD = split_heads(self.k_proj(x), self.head_dim)
        v_BKTD = split_heads(self.v_proj(x), self.head_dim)
        if self.q_norm is not None:
            q_BHTD, k_BKTD = self.q_norm(q_BHTD), self.k_norm(k_BKTD)
        if self.use_rope:
            cos, sin = scene.rotation
            q_BHTD, k_BKTD = rotate(q_BHTD, cos, sin, self.layout), rotate(k_BKTD, cos, sin, self.layout)
        if cache is not None:
            k_BKTD, v_BKTD = cache.append(self.layer, k_BKTD, v_BKTD)
        seen = attend(
            q_BHTD, k_BKTD, v_BKTD, scene,
            scale=self.scale, window=self.window, softcap=self.softcap, use_alibi=self.use_alibi,
        )  # fmt: skip
        return self.o_proj(join_heads(seen))


class LatentAttention(nn.Module):
    """Multi-head latent attention: keys and values are rebuilt from one latent per token, and only it is cached.

    While decoding, the up-projections are absorbed into the query and the output, so keys and values of past tokens are
    never formed: attention then runs with one key/value head of width kv_rank + rope_dim.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1 and appendix C.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        latent = config.latent
        self.layer = layer
        self.latent = latent
        self.n_heads = config.n_heads
        self.window = config.window_of(layer)
        self.softcap = config.attention_softcap
        self.layout = config.rope_layout
        self.use_rope = config.position == "rope" and config.has_positions(layer)
        plain_scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        self.scale = plain_scale * score_factor(config.rope_scaling)
        q_width = config.n_heads * config.head_dim
        if latent.q_rank is None:
            self.q_proj = Linear(config.width, q_width, bias=False)
        else:
            self.q_down_proj = Linear(config.width, latent.q_rank, bias=config.qkv_bias)
            self.q_latent_norm = RMSNorm(latent.q_rank, latent.norm_eps)
            self.q_up_proj = Linear(latent.q_rank, q_width, bias=False)
        self.kv_down_proj = Linear(config.width, latent.kv_rank + latent.rope_dim, bias=config.qkv_bias)
        self.kv_latent_norm = RMSNorm(latent.kv_rank, latent.norm_eps)
        self.kv_up_proj = Linear(latent.kv_rank, config.n_heads * (latent.nope_dim + latent.value_dim), bias=False)
        self.o_proj = Linear(config.n_heads * latent.value_dim, config.width, bias=config.out_bias)

    def forward(
        self, x: Float[Tensor, "B T E"], scene: Scene, cache: ModelCache | None = None
    ) -> Float[Tensor, "B T E"]:
        q_nope, q_rope = self._queries(x, scene)
        latent_B1TR, k_rope_B1TD = self._latent(x, scene)
        if cache is not None:
            latent_B1TR, k_rope_B1TD = cache.append(self.layer, latent_B1TR, k_rope_B1TD)
        attend_with = self._attend_absorbed if cache is not None and x.shape[1] == 1 else self._attend_expanded
        return self.o_proj(join_heads(attend_with(q_nope, q_rope, latent_B1TR, k_rope_B1TD, scene)))

    def _queries(self, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """Query parts without and with positions, (B, H, T, nope_dim) and (B, H, T, rope_dim)."""
        q = self.q_proj(x) if self.latent.q_rank is None else self.q_up_proj(self.q_latent_norm(self.q_down_proj(x)))
        q_nope, q_rope = split_heads(q, self.latent.nope_dim + self.latent.rope_dim).split(
            (self.latent.nope_dim, self.latent.rope_dim), dim=-1
        )
        return q_nope, rotate(q_rope, *scene.rotation, self.layout) if self.use_rope else q_rope

    def _latent(self, x: Tensor, scene: Scene) -> tuple[Tensor, Tensor]:
        """The normalised latent (B, 1, T, kv_rank) and the one rotated key part of all heads (B, 1, T, rope_dim)."""
        latent, k_rope = self.kv_down_proj(x)[:, None].split((self.latent.kv_rank, self.latent.rope_dim), dim=-1)
        return self.kv_latent_norm(latent), rotate(k_rope, *scene.rotation, self.layout) if self.use_rope else k_rope

    def _attend_expanded(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, scene: Scene) -> Tensor:
        """Rebuild every head's keys and values: least arithmetic when there are many queries."""
        widths = (self.latent.nope_dim, self.latent.value_dim)
        k_nope, v = split_heads(self.kv_up_proj(latent[:, 0]), sum(widths)).split(widths, dim=-1)
        k = torch.cat((k_nope, k_rope.expand(-1, self.n_heads, -1, -1)), dim=-1)
        q = torch.cat((q_nope, q_rope), dim=-1)
        return attend(q, k, v, scene, scale=self.scale, window=self.window, softcap=self.softcap)

    def _attend_absorbed(self, q_nope: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, scene: Scene) -> Tensor:
        """Move the up-projections to the query's side: least memory traffic when there is one query.

        q_nope . (W_uk c) = (W_uk^T q_nope) . c, and sum_s p_s (W_uv c_s) = W_uv (sum_s p_s c_s).
        """
        w_HNR = self.kv_up_proj.weight.view(self.n_heads, -1, self.latent.kv_rank)
        w_uk, w_uv = w_HNR.split((self.latent.nope_dim, self.latent.value_dim), dim=1)
        q = torch.cat((q_nope @ w_uk, q_rope), dim=-1)
        k = torch.cat((latent, k_rope), dim=-1)
        seen = attend(q, k, latent, scene, scale=self.scale, window=self.window, softcap=self.softcap)
        return seen @ w_uv.mT
