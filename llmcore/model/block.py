"""One block of the Transformer: attention and feed-forward network, and where the norms stand around them.

Taught in: 03_norms.
"""

# Shapes: B batch, T time, E width.
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.layers import feed_forward
from llmcore.model.attention import LatentAttention, Scene, SelfAttention
from llmcore.model.cache import ModelCache
from llmcore.model.config import ModelConfig
from llmcore.moe import MixtureOfExperts, Routing
from llmcore.norms import LayerNorm, RMSNorm, deepnorm_constants


def make_norm(config: ModelConfig) -> RMSNorm | LayerNorm:
    """A norm over the model's width, as the config says."""
    if config.norm == "rms":
        return RMSNorm(config.width, config.norm_eps, config.norm_unit_offset)
    return LayerNorm(config.width, config.norm_eps, config.norm_bias)


class Block(nn.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)); double: x + norm(f(norm(x))); deep: norm(alpha x + f(x)).

    f is attention, then the feed-forward network; a parallel block feeds both from one norm and adds both at once.

    Source: pre and post, arXiv:2002.04745; double, arXiv:2408.00118; deep, arXiv:2203.00555; parallel, PaLM, arXiv:2204.02311.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.placement = config.norm_placement
        self.parallel = config.parallel
        self.alpha = deepnorm_constants(config.n_layers)[0] if config.norm_placement == "deep" else 1.0
        self.attention_norm = make_norm(config)
        self.attention = LatentAttention(config, layer) if config.latent else SelfAttention(config, layer)
        self.ffn_norm = None if config.parallel else make_norm(config)
        if config.is_moe(layer):
            self.ffn = MixtureOfExperts(config.moe, config.width, config.ffn)
        else:
            self.ffn = feed_forward(config.width, config.ffn_width, config.ffn, config.ffn_bias)
        double = config.norm_placement == "double"
        self.attention_out_norm = make_norm(config) if double else None
        self.ffn_out_norm = make_norm(config) if double else None
        self.dropout = nn.Dropout(config.dropout) if config.dropout else None

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        scene: Scene,
        cache: ModelCache | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "B T E"]:
        if self.parallel:
            normed = self.attention_norm(x)
            return x + self._drop(self.attention(normed, scene, cache)) + self._drop(self._feed(normed, routings))
        if self.placement in ("pre", "double"):
            seen = self.attention(self.attention_norm(x), scene, cache)
            x = x + self._drop(seen if self.attention_out_norm is None else self.attention_out_norm(seen))
            fed = self._feed(self.ffn_norm(x), routings)
            return x + self._drop(fed if self.ffn_out_norm is None else self.ffn_out_norm(fed))
        x = self.attention_norm(self.alpha * x + self._drop(self.attention(x, scene, cache)))
        return self.ffn_norm(self.alpha * x + self._drop(self._feed(x, routings)))

    def _feed(self, x: Tensor, routings: list[Routing] | None) -> Tensor:
        return self.ffn(x, routings) if isinstance(self.ffn, MixtureOfExperts) else self.ffn(x)

    def _drop(self, x: Tensor) -> Tensor:
        return x if self.dropout is None else self.dropout(x)
