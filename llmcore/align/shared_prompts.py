"""Responses to one prompt in one row behind it, so that a model reads every prompt once and no padding between.

A token of a response sees the prompt and its own response up to itself; positions count on from the prompt in every
response. So the hidden states are those of each row alone, up to rounding, for less than half the work where groups of
answers share a prompt.

Left out on purpose: models whose attention is not of that plain kind (`why_not`); they read rows one by one.
"""

# Shapes: B responses, N tokens of the longest, R packed rows, T tokens of a row, M response tokens in all, E width.
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from llmcore.align.sequences import Sequences
from llmcore.model.attention import Scene, SelfAttention
from llmcore.model.transformer import Transformer

PROMPT, PADDING = 0, -1
WIDTHS_PER_ROW = 2
"""Tokens of a packed row per unit of the model's width: attention then costs less than half of what the matrices do."""
MOST_ROW_TOKENS = 1024
"""Longest packed row: its mask has that many squared entries, and longer rows are better served by kernels that need none."""


@dataclass(frozen=True)
class PackedRows:
    """Prompts followed by responses, and where each response token is predicted."""

    ids: Int[Tensor, "R T"]
    positions: Int[Tensor, "R T"]
    parts: Int[Tensor, "R T"]
    """0 at a prompt, 1, 2, ... at the row's responses, -1 at padding."""
    predicting: Int[Tensor, "M"]
    """Place in the flattened rows that predicts each response token, response after response."""

    def visible(self) -> Bool[Tensor, "R T T"]:
        """Which tokens (last axis) each token sees."""
        query, key = self.parts[:, :, None], self.parts[:, None, :]
        before = torch.ones(self.parts.shape[1], self.parts.shape[1], dtype=torch.bool, device=self.parts.device).tril()
        return ((query == key) | (key == PROMPT)) & (query != PADDING) & before


def why_not(model: Transformer) -> str | None:
    """None when the model can read packed rows, else the reason in words."""
    config = model.config
    if not config.causal or config.position == "alibi" or config.window is not None:
        return "its attention is not causal over all tokens, or measures distance in columns"
    if any(not isinstance(block.attention, SelfAttention) for block in model.blocks):
        return "its attention is latent"
    return None


def row_tokens_of(model: Transformer) -> int:
    """How long packed rows should be for this model."""
    return min(int(WIDTHS_PER_ROW * model.config.width), MOST_ROW_TOKENS)


def pack(rows: Sequences, row_tokens: int) -> PackedRows | None:
    """The rows packed first-fit into rows of row_tokens tokens, or as many as the longest has; None when that saves too little.

    None too where a single row is longer than MOST_ROW_TOKENS.

    >>> pack(Sequences.of([[5, 6], [5, 6]], [[1, 2], [3]]), row_tokens=8).ids.tolist()
    [[5, 6, 1, 2, 3]]
    """
    prompt_sizes, sizes = rows.prompt_lengths.tolist(), rows.response_lengths.tolist()
    longest = max(p + n for p, n in zip(prompt_sizes, sizes))
    if longest > MOST_ROW_TOKENS:
        return None
    capacity = max(row_tokens, longest)
    opened: list[list[int]] = []  # [a response with the row's prompt, tokens so far, responses so far]
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    placed: list[tuple[int, int, int]] = []  # row, first column, number within the row
    for index, ids in enumerate(rows.ids.tolist()):
        candidates = of_prompt.setdefault(tuple(ids[: prompt_sizes[index]]), [])
        row = next((row for row in candidates if opened[row][1] + sizes[index] <= capacity), None)
        if row is None:
            row = len(opened)
            opened.append([index, prompt_sizes[index], 0])
            candidates.append(row)
        opened[row][2] += 1
        placed.append((row, opened[row][1], opened[row][2]))
        opened[row][1] += sizes[index]
    width = max(row[1] for row in opened)
    if len(opened) * width >= 0.9 * rows.ids.numel():
        return None
    return _fill(rows, width, torch.tensor([row[0] for row in opened]), torch.tensor(placed))


def _fill(rows: Sequences, width: int, first: Int[Tensor, "R"], placed: Int[Tensor, "B 3"]) -> PackedRows:
    device = rows.ids.device
    first = first.to(device)
    row, column, number = placed.to(device).unbind(dim=1)
    prompt_sizes = rows.prompt_lengths[first]
    steps = torch.arange(width, device=device).expand(len(first), width)
    ids = torch.zeros(len(first), width, dtype=rows.ids.dtype, device=device)
    n = min(width, rows.ids.shape[1])
    ids[:, :n] = rows.ids[first][:, :n]  # beyond a prompt this is overwritten, or padding that nobody sees
    parts = torch.where(steps < prompt_sizes[:, None], PROMPT, PADDING)
    positions = steps.clone()
    mask = rows.response_mask
    step = torch.arange(mask.shape[1], device=device)
    places = ((row * width + column)[:, None] + step)[mask]
    ids.view(-1)[places] = rows.ids.gather(1, rows.response_places)[mask]
    positions.view(-1)[places] = (rows.prompt_lengths[:, None] + step)[mask]
    parts.view(-1)[places] = number[:, None].expand_as(mask)[mask]
    after_prompt = (row * width + rows.prompt_lengths - 1)[:, None]
    within = (row * width + column - 1)[:, None] + step
    predicting = torch.where(step == 0, after_prompt, within)[mask]
    return PackedRows(ids, positions, parts, predicting)


def packed_states(model: Transformer, packed: PackedRows) -> Float[Tensor, "M E"]:
    """The hidden states that predict the responses' tokens, response after response."""
    scene = Scene(causal=False, same_document=packed.visible()[:, None])
    if model.rotary is not None:
        scene.rotation = model.rotary(packed.positions)
    x = model._embed(packed.ids, packed.positions)
    for block in model.blocks:
        x = block(x, scene, None, None)
    x = x.flatten(0, 1).index_select(0, packed.predicting)
    return x if model.final_norm is None else model.final_norm(x)
