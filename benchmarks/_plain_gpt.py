"""The peer of the training benchmarks: the plain GPT that nanoGPT trains, restated in a page of PyTorch.

One fused projection for queries, keys and values, PyTorch's own attention, exact GELU, layer norms without biases, tied head, plain
cross-entropy over all logits. `--peer model.py` of the benchmarks takes nanoGPT's own file in its place (classes GPT and GPTConfig).
"""

import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainBlock(nn.Module):
    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, e = x.shape
        q, k, v = (
            part.view(b, t, self.n_heads, -1).transpose(1, 2) for part in self.qkv(self.norm_1(x)).split(e, dim=2)
        )
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(b, t, e))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class PlainGpt(nn.Module):
    """Logits and mean cross-entropy of ids and targets."""

    def __init__(self, vocab_size: int, context: int, width: int, n_layers: int, n_heads: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(PlainBlock(width, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)
        self.tokens.weight = self.head.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return logits, F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


def make_peer(path: str | None, vocab_size: int, context: int, width: int, n_layers: int, n_heads: int) -> nn.Module:
    """The peer: nanoGPT's own GPT from the file at `path`, or the plain one here; called with (ids, targets), gives (logits, loss)."""
    if path is None:
        return PlainGpt(vocab_size, context, width, n_layers, n_heads)
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.GPT(
        module.GPTConfig(
            block_size=context,
            vocab_size=vocab_size,
            n_layer=n_layers,
            n_head=n_heads,
            n_embd=width,
            dropout=0.0,
            bias=False,
        )
    )


def peer_optimizer(model: nn.Module, lr: float, *, fused: bool = False) -> torch.optim.AdamW:
    """AdamW as nanoGPT sets it up: decay on matrices, fused on CUDA only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=fused)
