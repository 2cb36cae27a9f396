"""What the tests of `llmcore.align` share: float64 draws, oracles by loops over single numbers, and mutants of a module."""

import importlib.util
import inspect
import math
from types import ModuleType

import torch

EXACT = {"atol": 1e-10, "rtol": 1e-10}


def close(got, want, **tolerance) -> None:
    got, want = (torch.as_tensor(value, dtype=torch.float64).detach() for value in (got, want))
    torch.testing.assert_close(got, want, **(tolerance or EXACT))


def draw(*shape, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def logprobs_by_hand(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    rows = []
    for row, targets in zip(logits.double().tolist(), ids.tolist()):
        values = []
        for step, target in zip(row[:-1], targets[1:]):
            top = max(step)
            values.append(step[target] - top - math.log(sum(math.exp(x - top) for x in step)))
        rows.append(values)
    return torch.tensor(rows, dtype=torch.float64)


def clipped(ratio: float, advantage: float, eps_low: float, eps_high: float) -> float:
    return min(ratio * advantage, min(max(ratio, 1 - eps_low), 1 + eps_high) * advantage)


def kl_by_hand(logp: float, ref: float, name: str) -> float:
    d = logp - ref
    return {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[name]


def expected_grpo(
    logp, old, ref, advantages, mask, lengths, *, variant, max_tokens, beta, eps_low=0.2, eps_high=0.2, kl="k3"
) -> float:
    """One response after the other, one token after the other."""
    per_response = []
    for i, n in enumerate(lengths):
        terms = []
        for t in range(n):
            ratio = math.exp(logp[i, t] - old[i, t])
            term = -clipped(ratio, advantages[i].item(), eps_low, eps_high)
            terms.append(term + beta * kl_by_hand(logp[i, t].item(), ref[i, t].item(), kl))
        per_response.append(terms)
    if variant == "grpo":
        return sum(sum(terms) / len(terms) if terms else 0.0 for terms in per_response) / len(lengths)
    total = sum(map(sum, per_response))
    return total / (len(lengths) * max_tokens) if variant == "dr_grpo" else total / sum(lengths)


def mutated(module_name: str, line: str, change: str) -> ModuleType:
    """A copy of a module in which one piece of the source is another."""
    module = importlib.import_module(module_name)
    source = inspect.getsource(module)
    assert source.count(line) >= 1, f"{line!r} is not in {module_name}"
    spec = importlib.util.spec_from_loader(f"{module_name}_mutant", loader=None)
    mutant = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[mutant.__name__] = mutant  # dataclasses look themselves up there
    try:
        exec(compile(source.replace(line, change), f"<mutant of {module_name}>", "exec"), mutant.__dict__)
    finally:
        del sys.modules[mutant.__name__]
    return mutant
