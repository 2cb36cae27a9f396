"""How weights start, as published.

Matrices are normal with `init_std`. The two projections per layer that write into the residual stream (attention output,
feed-forward down) are divided by sqrt(2 n_layers) under pre and double norm (GPT-2). Under DeepNorm they, and the value and
other feed-forward projections, are Xavier-normal with gain beta; queries and keys with gain 1. Biases start at 0, norms at 1.

Taught in: 03_norms.
"""

import torch
from torch import Tensor, nn

from llmcore.moe import Experts
from llmcore.norms import LayerNorm, RMSNorm, deepnorm_constants, init_std, residual_init_std

RESIDUAL_WRITERS = ("o_proj", "down_proj")
DEEPNORM_SCALED = ("v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "kv_up_proj")


@torch.no_grad()
def initialize(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw every weight of a `Transformer` anew from `generator` (None: torch's own state)."""
    config = model.config
    for path, module in model.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(module, nn.Linear):
            module.weight.normal_(0, _std(config, name, module.weight), generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.Embedding):
            module.weight.normal_(0, config.init_std, generator=generator)
        elif isinstance(module, Experts):
            for expert_name, weight in module.named_parameters():
                weight.normal_(0, _std(config, expert_name, weight), generator=generator)
        elif isinstance(module, (RMSNorm, LayerNorm)):
            module.weight.fill_(0.0 if getattr(module, "unit_offset", False) else 1.0)
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("choice_bias"):
            buffer.zero_()


def _std(config, name: str, weight: Tensor) -> float:
    if config.norm_placement == "deep":
        gain = deepnorm_constants(config.n_layers)[1] if name in DEEPNORM_SCALED else 1.0
        return init_std("xavier", weight.shape[-1], weight.shape[-2], gain) if name != "head" else config.init_std
    if name in RESIDUAL_WRITERS and config.norm_placement in ("pre", "double"):
        return residual_init_std(config.init_std, config.n_layers)
    return config.init_std
