"""`LeanDecoder`: one token at a time through a small model, in as few operations as it takes.

A small model's decoding time on a CPU is not arithmetic but the cost of starting operations, some microseconds each. So
the same computation is laid out anew: query, key and value in one product, gate and up in one, norm gains folded into the
matrix that follows, residual additions inside the product before them, RoPE on queries and keys at once. The result is
the model's own up to rounding.

Left out on purpose: models whose arithmetic outweighs that cost, and architectures off the beaten track (`why_not` says
which); the ordinary `CachedDecoder` serves them.
"""

# Shapes: B batch, H query heads, K key/value heads, P = H + 2K heads of one fused product, D head dim, S tokens, E width.
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llmcore.layers import GatedMlp, Mlp
from llmcore.model import ModelCache, Transformer
from llmcore.model.attention import SelfAttention
from llmcore.model.block import Block
from llmcore.model.rotary import Rotary
from llmcore.norms import LayerNorm, RMSNorm, soft_cap
from llmcore.positions import sinusoidal

MOST_WEIGHT_BYTES = 256 * 2**20
FIRST_ROOM_TOKENS = 64
KNOWN_MODULES = {
    Transformer, Block, SelfAttention, Rotary, Mlp, GatedMlp, LayerNorm, RMSNorm,
    nn.ModuleList, nn.Linear, nn.Embedding, nn.Dropout,
}  # fmt: skip


def why_not(model: nn.Module) -> str | None:
    """None when `LeanDecoder` can serve the model, else the reason in words."""
    strangers = [type(module).__name__ for module in model.modules() if type(module) not in KNOWN_MODULES]
    if strangers:
        return f"it holds a {strangers[0]}"
    config = model.config
    off_path = {
        "QK-norm": config.qk_norm,
        "a soft-cap on scores": config.attention_softcap is not None,
        "ALiBi": config.position == "alibi",
        f"{config.norm_placement}-norm blocks": config.norm_placement != "pre",
        "parallel blocks": config.parallel,
        "no causal mask": not config.causal,
        "dynamic RoPE scaling": config.rope_scaling is not None and config.rope_scaling.kind == "dynamic",
        "partial rotary": config.position == "rope" and config.rotary_dim != config.head_dim,
        "the interleaved RoPE layout": config.position == "rope" and config.rope_layout != "half",
    }
    for name, present in off_path.items():
        if present:
            return f"it has {name}"
    if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in model.parameters()):
        return "it is not in float32 on the CPU"
    if sum(parameter.nbytes for parameter in model.parameters()) > MOST_WEIGHT_BYTES:
        return f"its weights exceed {MOST_WEIGHT_BYTES} bytes"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "it has forward hooks"
    return None


class _FoldedNorm:
    """A norm whose gain and bias have moved into the matrices that read it."""

    def __init__(self, norm: LayerNorm | RMSNorm) -> None:
        self.is_rms, self.eps = isinstance(norm, RMSNorm), norm.eps
        self.gain = 1 + norm.weight if self.is_rms and norm.unit_offset else norm.weight
        self.shift = None if self.is_rms else norm.bias

    def fold(
        self, weight: Float[Tensor, "N E"], bias: Float[Tensor, "N"] | None = None
    ) -> tuple[Float[Tensor, "E N"], Float[Tensor, "N"] | None]:
        """The matrix times the gain, (in, out), and what the biases come to."""
        if self.shift is not None:
            bias = weight @ self.shift if bias is None else bias + weight @ self.shift
        return (weight * self.gain).t(), bias

    def __call__(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        if self.is_rms:
            return x * (x * x).mean(dim=1, keepdim=True).add_(self.eps).rsqrt_()
        return F.layer_norm(x, x.shape[1:], None, None, self.eps)


class _FoldedBlock:
    """The weights of one block, fused and transposed to (in, out), and its keys and values."""

    def __init__(self, block: Block) -> None:
        attention, ffn = block.attention, block.ffn
        self.window, self.scale, self.use_rope = attention.window, attention.scale, attention.use_rope
        self.attention_norm, self.ffn_norm = _FoldedNorm(block.attention_norm), _FoldedNorm(block.ffn_norm)
        self.qkv = self.attention_norm.fold(*_join(attention.q_proj, attention.k_proj, attention.v_proj))
        self.out = (attention.o_proj.weight.t(), attention.o_proj.bias)
        self.gated, self.activation = isinstance(ffn, GatedMlp), ffn.activation
        self.up = self.ffn_norm.fold(*(_join(ffn.gate_proj, ffn.up_proj) if self.gated else _join(ffn.up_proj)))
        self.down = (ffn.down_proj.weight.t(), ffn.down_proj.bias)
        self.heads: Float[Tensor, "B 2K S D"] | None = None
        """Keys, then values, with room to spare along S."""


def _join(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return torch.cat([linear.weight for linear in linears]), bias


def _product(x: Tensor, matrix: tuple[Tensor, Tensor | None]) -> Tensor:
    weight, bias = matrix
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _add_product(residual: Tensor, x: Tensor, matrix: tuple[Tensor, Tensor | None]) -> Tensor:
    weight, bias = matrix
    y = torch.addmm(residual, x, weight)
    return y if bias is None else y.add_(bias)


class LeanDecoder:
    """Decodes for models that `why_not` lets through; the methods are those of `CachedDecoder`.

    The weights are copied when it is made: later changes of the model do not reach it.
    """

    def __init__(self, model: Transformer, max_tokens: int | None = None) -> None:
        self.model, self.config, self.max_tokens = model, model.config, max_tokens
        self.length = 0
        self.n_rotated = self.config.n_heads + self.config.n_kv_heads
        with torch.inference_mode():
            self.blocks = [_FoldedBlock(block) for block in model.blocks]
            self.final_norm = _FoldedNorm(model.final_norm)
            self.head = self.final_norm.fold(model.head_weight)

    @torch.inference_mode()
    def read(self, ids: Int[Tensor, "B T"], real: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B V"]:
        """Logits after the prompt, which the model itself reads; `real` is False at padding, on the left."""
        cache = ModelCache(self.config, keep_all=True)
        hidden = self.model.hidden(ids, doc_ids=None if real is None else real.long() - 1, cache=cache)
        self.length = ids.shape[1]
        for layer, block in enumerate(self.blocks):
            nothing = hidden.new_empty(len(ids), self.config.n_kv_heads, 0, self.config.head_dim)
            keys, values = cache.append(layer, nothing, nothing)
            block.heads = torch.cat((keys, values), dim=1)
        self.positions = torch.full((len(ids),), self.length) if real is None else real.sum(dim=1)
        self.visible = real
        self._make_room(self.max_tokens or self.length + FIRST_ROOM_TOKENS)
        return self.model.logits(hidden[:, -1])

    def _make_room(self, room: int) -> None:
        """Buffers for `room` tokens, and the tables that go with their positions."""
        for block in self.blocks:
            held, block.heads = block.heads, block.heads.new_empty(*block.heads.shape[:2], room, self.config.head_dim)
            block.heads[:, :, : self.length] = held[:, :, : self.length]
        if self.visible is not None:
            self.visible = F.pad(self.visible[:, : self.length], (0, room - self.length), value=True)
        self.room = room
        batch, last = len(self.positions), int(self.positions.max()) + room - self.length
        if self.config.position == "rope":
            cos, sin = self.model.rotary(torch.arange(last))
            self.cos, self.sin = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)
            # Values pass through the rotation of queries and keys unturned.
            shape = (batch, self.n_rotated + self.config.n_kv_heads, self.config.head_dim)
            self.cos_now, self.sin_now = torch.ones(shape), torch.zeros(shape)
        elif self.config.position == "sinusoidal":
            self.absolute = sinusoidal(torch.arange(last), self.config.width)
        elif self.config.position == "learned":
            self.absolute = self.model.position_embedding.weight

    @torch.inference_mode()
    def step(self, ids: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """Logits after one more token in every row."""
        if self.length == self.room:
            self._make_room(2 * self.room)
        x = F.embedding(ids, self.model.embedding.weight)
        if self.config.embedding_scale != 1:
            x = x * self.config.embedding_scale
        if self.config.position == "rope":
            self.cos_now[:, : self.n_rotated] = self.cos[self.positions][:, None]
            self.sin_now[:, : self.n_rotated] = self.sin[self.positions][:, None]
        elif self.config.position != "none":
            x = x + self.absolute[self.positions]
        for block in self.blocks:
            x = self._feed(block, self._attend(block, x))
        self.length += 1
        self.positions += 1
        return soft_cap(_product(self.final_norm(x), self.head), self.config.logit_softcap)

    def _attend(self, block: _FoldedBlock, x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        n_heads, n_kv, head_dim = self.config.n_heads, self.config.n_kv_heads, self.config.head_dim
        heads_BPD = _product(block.attention_norm(x), block.qkv).view(x.shape[0], -1, head_dim)
        if block.use_rope:  # half layout: x * [cos, cos] + [second half, first half] * [-sin, sin]
            swapped = heads_BPD.roll(head_dim // 2, dims=2)
            heads_BPD = torch.addcmul(heads_BPD * self.cos_now, swapped, self.sin_now)
        block.heads[:, :, self.length] = heads_BPD[:, n_heads:]
        first = 0 if block.window is None else max(0, self.length - block.window)
        past = block.heads[:, :, first : self.length + 1]
        seen = F.scaled_dot_product_attention(
            # Queries that share a key head are rows of one matrix.
            heads_BPD[:, :n_heads].reshape(x.shape[0], n_kv, n_heads // n_kv, head_dim),
            past[:, :n_kv],
            past[:, n_kv:],
            attn_mask=None if self.visible is None else self.visible[:, None, None, first : self.length + 1],
            scale=block.scale,
        )
        return _add_product(x, seen.reshape(x.shape[0], -1), block.out)

    def _feed(self, block: _FoldedBlock, x: Float[Tensor, "B E"]) -> Float[Tensor, "B E"]:
        hidden = _product(block.ffn_norm(x), block.up)
        if block.gated:
            gate, up = hidden.chunk(2, dim=1)
            hidden = block.activation(gate).mul_(up)
        else:
            hidden = block.activation(hidden)
        return _add_product(x, hidden, block.down)

    def reorder(self, rows: Int[Tensor, "n"]) -> None:
        """Make row i what row `rows[i]` was; rows may repeat, or be more or fewer than before."""
        for block in self.blocks:
            block.heads = block.heads[rows]
        self.positions = self.positions[rows]
        if self.visible is not None:
            self.visible = self.visible[rows]
        self._make_room(self.room)
