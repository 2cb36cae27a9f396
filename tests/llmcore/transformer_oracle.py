"""A second Transformer, written from the formulas in float64 without any part of the first, and configs that try everything."""

import math

import torch
import torch.nn.functional as F

from llmcore.model import LatentConfig, ModelConfig, MoeConfig
from llmcore.positions import RopeScaling

SMALL = {"vocab_size": 31, "context": 40, "width": 18, "n_layers": 3, "n_heads": 3, "ffn_width": 13, "init_std": 0.25}


def config(**options) -> ModelConfig:
    """A config of odd sizes."""
    return ModelConfig(**(SMALL | options))


# Every idea of ModelConfig at least once.
CONFIGS = {
    "plain": config(),
    "gqa": config(n_heads=6, n_kv_heads=2, head_dim=4, tie_embeddings=False),
    "mqa-interleaved": config(n_kv_heads=1, rope_layout="interleaved"),
    "partial-rotary-parallel-gelu": config(rotary_fraction=0.67, parallel=True, ffn="gelu", norm="layer", norm_bias=True),
    "alibi": config(position="alibi", ffn="relu2"),
    "alibi-window": config(position="alibi", window=4),
    "learned-post": config(position="learned", norm="layer", norm_bias=True, norm_placement="post", qkv_bias=True, out_bias=True, ffn_bias=True, ffn="gelu_tanh"),
    "sinusoidal-deep": config(position="sinusoidal", norm_placement="deep", embedding_scale=18**0.5),
    "none-encoder": config(position="none", causal=False, ffn="geglu"),
    "nope-layers": config(nope_layers=(1,), window=5, full_attention_layers=(1,)),
    "window": config(window=3),
    "window-0": config(window=0),
    "gemma-like": config(norm_placement="double", norm_unit_offset=True, window=4, full_attention_layers=(2,), attention_softcap=1.5, logit_softcap=2.0, attention_scale=0.3, ffn="geglu_tanh"),
    "qk-norm": config(qk_norm=True, rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_context=8)),
    "llama3-scaling": config(rope_scaling=RopeScaling(kind="llama3", factor=4.0, original_context=16)),
    "ntk-reglu": config(rope_scaling=RopeScaling(kind="ntk", factor=2.0), ffn="reglu"),
    "mla": config(latent=LatentConfig(kv_rank=7, q_rank=9, nope_dim=4, rope_dim=2, value_dim=5), rope_layout="interleaved"),
    "mla-plain-query-window": config(latent=LatentConfig(kv_rank=7, nope_dim=4, rope_dim=6, value_dim=3), window=4, full_attention_layers=(0,)),
    "moe": config(moe=MoeConfig(n_experts=5, top_k=2, expert_width=6, n_shared=1, dense_layers=(0,))),
    "moe-sigmoid": config(moe=MoeConfig(n_experts=6, top_k=2, expert_width=6, router="sigmoid", scale=1.7, n_groups=3, top_groups=2, bias_balancing=True)),
}  # fmt: skip
ACTIVATIONS = {
    "relu2": (lambda x: F.relu(x) ** 2, False),
    "gelu": (F.gelu, False),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), False),
    "swiglu": (F.silu, True),
    "reglu": (F.relu, True),
    "geglu": (F.gelu, True),
    "geglu_tanh": (lambda x: F.gelu(x, approximate="tanh"), True),
}


class Oracle:
    """Logits of one row of ids, from a state dict."""

    def __init__(self, config: ModelConfig, state: dict[str, torch.Tensor]) -> None:
        self.config = config
        self.state = {name: tensor.double() for name, tensor in state.items()}

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        c, positions = self.config, torch.arange(len(ids)).double()
        x = self.state["embedding.weight"][ids] * c.embedding_scale
        if c.position == "learned":
            x = x + self.state["position_embedding.weight"][: len(ids)]
        if c.position == "sinusoidal":
            columns = torch.arange(c.width)
            angles = positions[:, None] / 10000.0 ** ((columns - columns % 2) / c.width)
            x = x + torch.where(columns % 2 == 0, angles.sin(), angles.cos())
        for layer in range(c.n_layers):
            x = self.block(x, layer)
        if c.norm_placement in ("pre", "double"):
            x = self.norm(x, "final_norm")
        logits = x @ self.state["embedding.weight" if c.tie_embeddings else "head.weight"].T
        return logits if c.logit_softcap is None else c.logit_softcap * torch.tanh(logits / c.logit_softcap)

    def block(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        c, at = self.config, f"blocks.{layer}."
        attend = self.mla if c.latent else self.attention
        if c.parallel:
            h = self.norm(x, at + "attention_norm")
            return x + attend(h, layer) + self.feed(h, layer)
        if c.norm_placement in ("post", "deep"):
            alpha = (2 * c.n_layers) ** 0.25 if c.norm_placement == "deep" else 1.0
            x = self.norm(alpha * x + attend(x, layer), at + "attention_norm")
            return self.norm(alpha * x + self.feed(x, layer), at + "ffn_norm")
        seen = attend(self.norm(x, at + "attention_norm"), layer)
        x = x + (self.norm(seen, at + "attention_out_norm") if c.norm_placement == "double" else seen)
        fed = self.feed(self.norm(x, at + "ffn_norm"), layer)
        return x + (self.norm(fed, at + "ffn_out_norm") if c.norm_placement == "double" else fed)

    def norm(self, x: torch.Tensor, name: str, eps: float | None = None, kind: str | None = None) -> torch.Tensor:
        weight = self.state[name + ".weight"] + (1 if self.config.norm_unit_offset else 0)
        if (kind or self.config.norm) == "layer":
            x = x - x.mean(-1, keepdim=True)
        scaled = x / (x.pow(2).mean(-1, keepdim=True) + (eps or self.config.norm_eps)).sqrt() * weight
        return scaled + self.state.get(name + ".bias", 0)

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.state[name + ".weight"].T + self.state.get(name + ".bias", 0)

    def rope(self, x: torch.Tensor) -> torch.Tensor:
        """x (heads, time, dim), the first rotary_dim columns turned."""
        from llmcore.positions import rope_attention_factor, rope_frequencies  # checked by tests of their own

        c, out = self.config, x.clone()
        frequencies = rope_frequencies(c.rotary_dim, c.rope_base, c.rope_scaling).double()
        factor, half = rope_attention_factor(c.rope_scaling), c.rotary_dim // 2
        for i in range(half):
            first, second = (i, i + half) if c.rope_layout == "half" else (2 * i, 2 * i + 1)
            angle = torch.arange(x.shape[1]) * frequencies[i]
            out[..., first] = factor * (x[..., first] * angle.cos() - x[..., second] * angle.sin())
            out[..., second] = factor * (x[..., second] * angle.cos() + x[..., first] * angle.sin())
        return out

    def heads(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return x.view(len(x), -1, dim).transpose(0, 1)

    def weigh(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layer: int, scale: float) -> torch.Tensor:
        """q (H, T, D); k, v (H, T, .) already one per query head; (T, H * Dv)."""
        c, time = self.config, q.shape[1]
        scores = torch.einsum("htd,hsd->hts", q, k) * scale
        if c.attention_softcap:
            scores = c.attention_softcap * torch.tanh(scores / c.attention_softcap)
        distance = torch.arange(time)[:, None] - torch.arange(time)[None, :]
        if c.position == "alibi" and layer not in c.nope_layers:
            slopes = {3: [2**-4, 2**-8, 2**-2]}[c.n_heads]
            scores = scores - torch.tensor(slopes).double()[:, None, None] * distance.abs()
        hidden = torch.zeros(time, time, dtype=torch.bool)
        if c.causal:
            hidden |= distance < 0
        if c.window is not None and layer not in c.full_attention_layers:
            hidden |= distance > c.window
        weights = scores.masked_fill(hidden, -math.inf).softmax(-1)
        return torch.einsum("hts,hsd->thd", weights, v).flatten(1)

    def attention(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        c, at = self.config, f"blocks.{layer}.attention."
        q, k, v = (self.heads(self.linear(x, at + name), c.head_dim) for name in ("q_proj", "k_proj", "v_proj"))
        if c.qk_norm:
            q, k = self.norm(q, at + "q_norm", kind="rms"), self.norm(k, at + "k_norm", kind="rms")
        if c.position == "rope" and layer not in c.nope_layers:
            q, k = self.rope(q), self.rope(k)
        k, v = (t.repeat_interleave(c.n_heads // c.n_kv_heads, dim=0) for t in (k, v))
        scale = c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale
        return self.linear(self.weigh(q, k, v, layer, scale), at + "o_proj")

    def mla(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        c, latent, at = self.config, self.config.latent, f"blocks.{layer}.attention."
        if latent.q_rank is None:
            q = self.linear(x, at + "q_proj")
        else:
            q = self.linear(self.norm(self.linear(x, at + "q_down_proj"), at + "q_latent_norm", 1e-6), at + "q_up_proj")
        q = self.heads(q, latent.nope_dim + latent.rope_dim)
        down = self.linear(x, at + "kv_down_proj")
        k_rope = self.rope(down[None, :, latent.kv_rank :]).expand(c.n_heads, -1, -1)
        up = self.linear(self.norm(down[:, : latent.kv_rank], at + "kv_latent_norm", 1e-6), at + "kv_up_proj")
        up = self.heads(up, latent.nope_dim + latent.value_dim)
        k = torch.cat((up[..., : latent.nope_dim], k_rope), -1)
        q = torch.cat((q[..., : latent.nope_dim], self.rope(q[..., latent.nope_dim :])), -1)
        scale = (latent.nope_dim + latent.rope_dim) ** -0.5
        return self.linear(self.weigh(q, k, up[..., latent.nope_dim :], layer, scale), at + "o_proj")

    def feed(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        c, at = self.config, f"blocks.{layer}.ffn."
        if c.moe is None or layer in c.moe.dense_layers:
            return self.mlp(x, at)
        return torch.stack([self.experts(token, at) for token in x])

    def mlp(self, x: torch.Tensor, at: str) -> torch.Tensor:
        activation, gated = ACTIVATIONS[self.config.ffn]
        up = self.linear(x, at + "up_proj")
        hidden = activation(self.linear(x, at + "gate_proj")) * up if gated else activation(up)
        return self.linear(hidden, at + "down_proj")

    def experts(self, x: torch.Tensor, at: str) -> torch.Tensor:
        moe = self.config.moe
        logits = self.state[at + "router.weight"] @ x
        scores = logits.softmax(0) if moe.router == "softmax" else logits.sigmoid()
        ranking = scores + self.state.get(at + "choice_bias", 0)
        size = moe.n_experts // moe.n_groups
        by_group = sorted(
            range(moe.n_groups), key=lambda g: -ranking[g * size : (g + 1) * size].topk(min(2, size)).values.sum()
        )
        allowed = [i for i in range(moe.n_experts) if i // size in by_group[: moe.top_groups]]
        chosen = sorted(allowed, key=lambda i: -ranking[i].item())[: moe.top_k]
        total = sum(scores[i] for i in chosen) if moe.normalize else 1.0
        y = 0
        for i in chosen:
            gate, up, down = (self.state[f"{at}experts.{name}_proj"][i] for name in ("gate", "up", "down"))
            y = y + scores[i] / total * moe.scale * (down @ (F.silu(gate @ x) * (up @ x)))
        return y + self.mlp(x, at + "shared.") if moe.n_shared else y
