"""Losses and gradients equal TRL's on the same tensors; where conventions differ, how."""

import pytest
import torch
from align_oracle import close

from llmcore import align

pytestmark = pytest.mark.interop
pytest.importorskip("trl", reason="TRL is not installed; pip install trl")

import trl_oracle  # noqa: E402


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-6)])
def test_every_loss_and_gradient_equals_trl_s(dtype, tolerance):
    """2e-6 in float32 is some twenty roundings of figures near 1; the smallest mistake among the mutants below is 1e-3."""
    worst = trl_oracle.differences(dtype)
    assert len(worst) == 15
    assert max(max(pair) for pair in worst.values()) < tolerance, worst


def test_a_mistake_would_be_seen():
    logp, old, ref, advantages, mask = trl_oracle.batch(torch.float64)
    theirs = trl_oracle.trl_grpo(logp, old, ref, advantages, mask, kind="dapo")
    for wrong in ({"variant": "grpo"}, {"variant": "dapo", "kl": "k2"}, {"variant": "dapo", "eps_high": 0.28}):
        assert abs(align.grpo_loss(logp, old, ref, advantages, mask, **wrong) - theirs) > 1e-5
    assert abs(align.grpo_loss(logp, old, ref, advantages, mask, variant="dapo") - theirs) < 1e-10


def test_where_conventions_differ():
    """TRL adds 1e-4 to the standard deviation, ours 1e-6; its robust loss is ours less its bias, its sigmoid loss knows no smoothing."""
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    grouped = rewards.view(2, 3)
    theirs = ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)).flatten()
    close(align.group_advantages(rewards, 3, eps=1e-4), theirs)
    assert 1e-5 < (align.group_advantages(rewards, 3) - theirs).abs().max() < 1e-3

    logp, _, ref, _, mask = trl_oracle.batch(torch.float64)
    sums = [torch.where(mask, x, 0).sum(dim=1) for x in (logp, ref)]
    pairs = [part for x in sums for part in x.chunk(2)]
    e = 0.2
    clean, flipped = (
        align.dpo_loss(*(pairs if right else [pairs[1], pairs[0], pairs[3], pairs[2]]))[0] for right in (1, 0)
    )
    close(align.dpo_loss(*pairs, label_smoothing=e)[0], (1 - e) * clean + e * flipped)
    robust = trl_oracle.trl_dpo(logp, sums[1], mask, loss_type="robust", label_smoothing=e)
    close(robust, ((1 - e) * clean - e * flipped) / (1 - 2 * e))
    close(trl_oracle.trl_dpo(logp, sums[1], mask, label_smoothing=e), clean)
