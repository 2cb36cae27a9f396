"""`Transformer`: embedding, blocks, final norm, head. Ids in, logits out.

Documents packed into one row are told apart by `doc_ids` (-1 is padding): a token sees its own document only, and
positions restart with each. With a `ModelCache` the model continues after the tokens it has already read.

Left out on purpose: losses (`llmcore.model.losses`) and sampling (`llmcore.generate`).

Taught in: 02_attention_scaling.
"""

# Shapes: B batch, T new tokens, S tokens in sight, E width, V vocabulary, R rotated pairs.
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmcore.layers import Embedding, Linear
from llmcore.model.attention import Scene
from llmcore.model.block import Block, make_norm
from llmcore.model.cache import ModelCache, restart_positions
from llmcore.model.config import ModelConfig
from llmcore.model.init import initialize
from llmcore.model.mtp import MtpModule
from llmcore.model.rotary import Rotary
from llmcore.moe import MixtureOfExperts, Routing
from llmcore.norms import soft_cap
from llmcore.positions import alibi_bias, sinusoidal


class Transformer(nn.Module):
    """A decoder (or encoder) of the given architecture, freshly initialised from `generator` (None: torch's own state).

    >>> config = ModelConfig(vocab_size=11, width=8, n_layers=2, n_heads=2, context=16)
    >>> Transformer(config)(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 11])

    Source: arXiv:1706.03762 and the papers that ModelConfig's fields name.
    """

    def __init__(self, config: ModelConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.width)
        self.position_embedding = Embedding(config.context, config.width) if config.position == "learned" else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else None
        self.rotary = Rotary(config) if config.position == "rope" else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        # Post-norm blocks end in a norm, so the stack needs no other.
        self.final_norm = make_norm(config) if config.norm_placement in ("pre", "double") else None
        self.head = None if config.tie_embeddings else Linear(config.width, config.vocab_size, bias=False)
        self.mtp = nn.ModuleList(MtpModule(config) for _ in range(config.n_mtp))
        if not self.embedding.weight.is_meta:
            self.initialize(generator)

    def initialize(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as published for this architecture; see `llmcore.model.init`."""
        initialize(self, generator)

    @property
    def head_weight(self) -> Float[Tensor, "V E"]:
        """The output matrix, whether tied or not."""
        return self.embedding.weight if self.head is None else self.head.weight

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def make_cache(self, max_tokens: int | None = None) -> ModelCache:
        """An empty cache for this model: static with max_tokens, growing without."""
        return ModelCache(self.config, max_tokens)

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        doc_ids: Int[Tensor, "B T"] | None = None,
        cache: ModelCache | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of every position, in the weights' dtype.

        Positions are (T,) or (B, T) and default to counting on from the cache, restarting with every document.

        Raises: ValueError for ids that are not (B, T) integers below the vocabulary size, positions or doc_ids of
            another shape, learned positions beyond the context, and a full static cache.
        """
        return self.logits(self.hidden(ids, positions, doc_ids, cache))

    def hidden(
        self,
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        doc_ids: Int[Tensor, "B T"] | None = None,
        cache: ModelCache | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "B T E"]:
        """What the head reads: the residual stream after the final norm. `routings` collects the routers' statistics."""
        self._check(ids, positions, doc_ids)
        seen, key_docs = 0, doc_ids
        if cache is not None:
            seen = cache.length
            positions, doc_ids, key_docs = cache.extend(ids.shape[1], positions, doc_ids)
        if positions is None:
            positions = self._default_positions(ids, doc_ids, seen)
        scene = self._scene(positions, doc_ids, key_docs, seen)
        x = self._embed(ids, positions)
        for block in self.blocks:
            x = block(x, scene, cache, routings)
        return x if self.final_norm is None else self.final_norm(x)

    def logits(self, hidden: Float[Tensor, "... E"]) -> Float[Tensor, "... V"]:
        """The head: hidden states to (soft-capped) logits."""
        return soft_cap(F.linear(hidden, self.head_weight), self.config.logit_softcap)

    def mtp_logits(
        self,
        hidden: Float[Tensor, "B T E"],
        ids: Int[Tensor, "B T"],
        positions: Int[Tensor, "*B T"] | None = None,
        doc_ids: Int[Tensor, "B T"] | None = None,
    ) -> list[Float[Tensor, "B T_k V"]]:
        """Logits of each multi-token-prediction module: entry k predicts at position t the token t + k + 2.

        Module k reads the state of module k - 1 (the first: `hidden`) at t and the token t + k + 1, so its T_k = T - k - 1.
        """
        state, outputs = hidden, []
        if positions is None:
            positions = self._default_positions(ids, doc_ids, 0)
        for depth, module in enumerate(self.mtp, start=1):
            docs = None if doc_ids is None else doc_ids[:, :-depth]
            scene = self._scene(positions[..., :-depth], docs, docs, 0)
            state = module(state[:, : ids.shape[1] - depth], self._embed_tokens(ids[:, depth:]), scene)
            outputs.append(self.logits(module.final_norm(state)))
        return outputs

    def _default_positions(self, ids: Tensor, doc_ids: Tensor | None, seen: int) -> Int[Tensor, "*B T"]:
        if doc_ids is not None:
            return restart_positions(doc_ids)
        return torch.arange(seen, seen + ids.shape[1], device=ids.device)

    def _embed(self, ids: Tensor, positions: Tensor) -> Float[Tensor, "B T E"]:
        x = self._embed_tokens(ids)
        if self.config.position == "sinusoidal":
            x = x + sinusoidal(positions, self.config.width).to(x.dtype)
        elif self.position_embedding is not None:
            x = x + self._learned_positions(positions)
        return x if self.dropout is None else self.dropout(x)

    def _embed_tokens(self, ids: Tensor) -> Float[Tensor, "B T E"]:
        try:
            x = self.embedding(ids)
        except IndexError:
            raise ValueError(
                f"ids must be in 0..{self.config.vocab_size - 1}, got {ids.min().item()}..{ids.max().item()}; "
                "check that tokenizer and model have one vocabulary"
            ) from None
        if self.config.embedding_scale == 1:
            return x
        return x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)  # rounded to x's dtype first, as Gemma does

    def _learned_positions(self, positions: Tensor) -> Float[Tensor, "*B T E"]:
        try:
            return self.position_embedding(positions)
        except IndexError:
            raise ValueError(
                f"this model has learned positions 0..{self.config.context - 1}, got position {positions.max().item()}; "
                "shorten the text or slide the window"
            ) from None

    def _scene(self, positions: Tensor, doc_ids: Tensor | None, key_docs: Tensor | None, seen: int) -> Scene:
        """What every layer shares: rotations, the document mask and ALiBi's bias."""
        scene = Scene(causal=self.config.causal)
        if self.rotary is not None:
            scene.rotation = self.rotary(positions)
        if doc_ids is not None:
            same_BTS = (doc_ids[:, :, None] == key_docs[:, None, :]) & (doc_ids[:, :, None] >= 0)
            scene.same_document = same_BTS[:, None]
        if self.config.position == "alibi":
            num_tokens = positions.shape[-1]
            scene.alibi = alibi_bias(self.config.n_heads, num_tokens, seen + num_tokens).to(positions.device)
        return scene

    def _check(self, ids: Tensor, positions: Tensor | None, doc_ids: Tensor | None) -> None:
        if ids.ndim != 2 or ids.is_floating_point() or ids.shape[1] == 0:
            raise ValueError(
                f"ids must be integers of shape (batch, time) with at least one token, got {ids.dtype} {tuple(ids.shape)}; "
                "for one sequence pass ids[None]"
            )
        if doc_ids is not None and doc_ids.shape != ids.shape:
            raise ValueError(f"doc_ids must have the shape of ids {tuple(ids.shape)}, got {tuple(doc_ids.shape)}")
        if positions is not None:
            if positions.shape not in (ids.shape, ids.shape[1:]):
                raise ValueError(
                    f"positions must be (T,) or (B, T) for ids {tuple(ids.shape)}, got {tuple(positions.shape)}"
                )
            if self.config.position == "alibi" and bool((positions.diff(dim=-1) != 1).any()):
                raise ValueError("ALiBi measures distance in columns: positions that skip or repeat cannot be passed")

    def moe_layers(self) -> list[MixtureOfExperts]:
        """The mixtures of experts, in the order in which `routings` are collected."""
        return [block.ffn for block in self.blocks if isinstance(block.ffn, MixtureOfExperts)]
