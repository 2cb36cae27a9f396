"""Multi-token prediction: small modules after the main stack, each of which guesses one token further ahead.

Source: DeepSeek-V3, arXiv:2412.19437, section 2.2.
"""

# Shapes: B batch, T time, E width.
import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmcore.layers import Linear
from llmcore.model.attention import Scene
from llmcore.model.block import Block, make_norm
from llmcore.model.config import ModelConfig


class MtpModule(nn.Module):
    """block(project([norm(embedding of a later token); norm(state)])), with embedding and head shared with the main model.

    The paper's text puts the state first; the released weights, and so this module, put the embedding first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.state_norm = make_norm(config)
        self.token_norm = make_norm(config)
        self.project = Linear(2 * config.width, config.width, bias=False)
        self.block = Block(config, config.n_layers - 1)
        self.final_norm = make_norm(config)

    def forward(
        self, state: Float[Tensor, "B T E"], token: Float[Tensor, "B T E"], scene: Scene
    ) -> Float[Tensor, "B T E"]:
        """The module's state before its final norm; `state` is what the module before it returned."""
        return self.block(self.project(torch.cat((self.token_norm(token), self.state_norm(state)), dim=-1)), scene)
