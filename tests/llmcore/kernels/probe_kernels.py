"""Two small kernels: a product of two bfloat16 tiles, to see what the interpreter makes of it, and which tile each program takes."""

import torch
import triton
import triton.language as tl

from llmcore.attention._tiles import tile_of_program


@triton.jit
def product_kernel(a, b, out):
    place = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    tl.store(out + place, tl.dot(tl.load(a + place), tl.load(b + place)))


def product_is_exact() -> bool:
    """Whether whole numbers up to 8, whose products bfloat16 and float32 hold exactly, come out right."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, (16, 16), generator=generator).to(torch.bfloat16) for _ in range(2))
    out = torch.empty(16, 16)
    product_kernel[(1,)](a, b, out)
    return torch.equal(out, a.float() @ b.float())


@triton.jit
def deal_kernel(out, n_blocks, n_heads, heads_together, LONGEST_LAST: tl.constexpr):
    block, head = tile_of_program(n_blocks, n_heads, heads_together, LONGEST_LAST)
    tl.store(out + 2 * tl.program_id(0), block)
    tl.store(out + 2 * tl.program_id(0) + 1, head)


def dealt(n_blocks: int, n_heads: int, heads_together: int, longest_last: bool) -> list[tuple[int, int]]:
    """(block, head) of every program, in their order."""
    out = torch.full((n_blocks * n_heads, 2), -1, dtype=torch.int32)
    deal_kernel[(n_blocks * n_heads,)](out, n_blocks, n_heads, heads_together, longest_last)
    return [tuple(pair) for pair in out.tolist()]
