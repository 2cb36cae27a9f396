"""TRL's own losses on tensors of ours: its trainers' loss methods, called on an object that has nothing but the settings they read.

`python tests/llmcore/trl_oracle.py` prints the table of largest differences. Written against TRL 1.16.
"""

import warnings
from collections import defaultdict
from types import SimpleNamespace

import torch

ALIKE = {"sigmoid": "dpo", "ipo": "ipo"}
GRPO_KINDS = ("grpo", "dr_grpo", "dapo", "gspo")
MAX_TOKENS = 7


def _bare(kind: type, **settings):
    from accelerate import Accelerator

    trainer = object.__new__(kind)
    vars(trainer).update(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(cpu=True),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    return trainer


def trl_dpo(pi_tokens, ref_sums, mask, *, loss_type="sigmoid", beta=0.1, label_smoothing=0.0):
    """TRL's loss for token log-probabilities (2P, N), chosen rows first, and reference sums (2P,)."""
    from trl import DPOTrainer

    rows, n = pi_tokens.shape
    zeros = torch.zeros_like(pi_tokens)
    outputs = SimpleNamespace(
        log_probs=torch.where(mask, pi_tokens, 0), entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    trainer = _bare(
        DPOTrainer, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl", loss_types=[loss_type],
        loss_weights=[1.0], beta=beta, label_smoothing=label_smoothing, use_weighting=False,
    )  # fmt: skip
    ones = torch.ones(rows, n + 1, dtype=torch.long)
    chosen, rejected = ref_sums.chunk(2)
    inputs = {
        "input_ids": ones, "attention_mask": ones, "completion_mask": torch.nn.functional.pad(mask.long(), (1, 0)),
        "ref_chosen_logps": chosen, "ref_rejected_logps": rejected,
    }  # fmt: skip
    return trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False)


def trl_reward(chosen, rejected, *, centre=None, margin=None):
    """TRL's loss of a reward model."""
    from trl import RewardTrainer

    trainer = _bare(RewardTrainer, args=SimpleNamespace(center_rewards_coefficient=centre))
    inputs = {"attention_mask": torch.ones(2, 3)} | ({} if margin is None else {"margin": margin})
    outputs = SimpleNamespace(logits=torch.cat((chosen, rejected))[:, None])
    return trainer.compute_loss(lambda **_: outputs, inputs)


def trl_grpo(logp, old_logp, ref_logp, advantages, mask, *, kind="grpo", beta=0.04, eps_low=0.2, eps_high=0.2):
    """TRL's loss of one batch; kind gspo is its importance_sampling_level "sequence"."""
    from trl import GRPOTrainer

    trainer = _bare(
        GRPOTrainer, top_entropy_quantile=1.0, off_policy_mask_threshold=None, beta=beta,
        importance_sampling_level="sequence" if kind == "gspo" else "token", loss_type="grpo" if kind == "gspo" else kind,
        epsilon_low=eps_low, epsilon_high=eps_high, use_vllm=False, max_completion_length=MAX_TOKENS,
        _entropy_bonus_enabled=False, current_gradient_accumulation_steps=1,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )  # fmt: skip
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logp, torch.zeros_like(logp), None)
    prompt = torch.ones(len(logp), 2, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask.long(), "completion_mask": mask.long(),
        "advantages": advantages, "old_per_token_logps": old_logp, "ref_per_token_logps": ref_logp,
        "num_items_in_batch": mask.sum(),
    }  # fmt: skip
    return trainer._compute_loss(None, inputs)


def batch(dtype: torch.dtype, n_responses: int = 6, n_tokens: int = 7, seed: int = 0):
    """(logp, old, ref, advantages, mask): lengths from 1 to n_tokens, ratios beyond the clip on both sides."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -draw(n_responses, n_tokens).abs()
    logp, ref = old + 0.3 * draw(n_responses, n_tokens), old + 0.3 * draw(n_responses, n_tokens)
    lengths = torch.randint(1, n_tokens + 1, (n_responses, 1), generator=generator)
    tensors = [tensor.to(dtype) for tensor in (logp, old, ref, draw(n_responses))]
    return *tensors, torch.arange(n_tokens) < lengths


def value_and_gradient(loss_of, x):
    """(loss, gradient) at x."""
    x = x.clone().requires_grad_()
    loss = loss_of(x)
    loss.backward()
    return loss.detach(), x.grad


def comparisons(dtype: torch.dtype):
    """name -> (ours, TRL's), each a function of the policy's log-probabilities, and where to evaluate them."""
    from llmcore import align

    logp, old, ref, advantages, mask = batch(dtype)
    found = {}
    for kind in GRPO_KINDS:
        eps = {"eps_low": 0.05, "eps_high": 0.1} if kind == "gspo" else {"eps_low": 0.2, "eps_high": 0.28}
        for beta in (0.0, 0.04):
            constants = (old, ref, advantages, mask)
            if kind == "gspo":
                ours = lambda x, c=constants, b=beta, e=eps: align.gspo_loss(x, *c, beta=b, **e)  # noqa: E731
            else:
                ours = lambda x, c=constants, b=beta, e=eps, k=kind: align.grpo_loss(  # noqa: E731
                    x, *c, beta=b, variant=k, max_tokens=MAX_TOKENS, **e
                )
            theirs = lambda x, c=constants, b=beta, e=eps, k=kind: trl_grpo(x, *c, kind=k, beta=b, **e)  # noqa: E731
            found[f"{kind}, beta {beta}"] = (ours, theirs, logp)

    lengths = mask.sum(dim=1)
    ref_sums = torch.where(mask, ref, 0).sum(dim=1)

    def sums(x):
        return torch.where(mask, x, 0).sum(dim=1)

    for beta in (0.1, 0.7):
        found[f"dpo sigmoid, beta {beta}"] = (
            lambda x, b=beta: align.dpo_loss(*sums(x).chunk(2), *ref_sums.chunk(2), beta=b)[0],
            lambda x, b=beta: trl_dpo(x, ref_sums, mask, beta=b),
            logp,
        )
        found[f"ipo, beta {beta}"] = (
            lambda x, b=beta: align.ipo_loss(*(sums(x) / lengths).chunk(2), *(ref_sums / lengths).chunk(2), beta=b)[0],
            lambda x, b=beta: trl_dpo(x, ref_sums, mask, loss_type="ipo", beta=b),
            logp,
        )
    pair = [torch.stack((x[0], x[3])) for x in (logp, ref, mask)]
    pair_ref = torch.where(pair[2], pair[1], 0).sum(dim=1)
    found["dpo with label smoothing 0.2, one pair (TRL: aot)"] = (
        lambda x: align.dpo_loss(
            *torch.where(pair[2], x, 0).sum(dim=1).chunk(2), *pair_ref.chunk(2), beta=0.7, label_smoothing=0.2
        )[0],
        lambda x: trl_dpo(x, pair_ref, pair[2], loss_type="aot", beta=0.7, label_smoothing=0.2),
        pair[0],
    )
    found["reward model"] = (
        lambda x: align.bradley_terry_loss(x[:, 0], x[:, 1]),
        lambda x: trl_reward(x[:, 0], x[:, 1]),
        logp,
    )
    found["reward model, margin and centring"] = (
        lambda x: align.bradley_terry_loss(x[:, 0], x[:, 1], margin=ref[:, 0].abs(), centre=0.01),
        lambda x: trl_reward(x[:, 0], x[:, 1], margin=ref[:, 0].abs(), centre=0.01),
        logp,
    )
    return found


def differences(dtype: torch.dtype):
    """name -> (largest difference of the loss, of a gradient entry)."""
    table = {}
    for name, (ours, theirs, at) in comparisons(dtype).items():
        (a, grad_a), (b, grad_b) = value_and_gradient(ours, at), value_and_gradient(theirs, at)
        table[name] = ((a - b).abs().item(), (grad_a - grad_b).abs().max().item())
    return table


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    exact, single = differences(torch.float64), differences(torch.float32)
    print(f"{'loss':52} {'float64: value':>15} {'gradient':>9} {'float32: value':>15} {'gradient':>9}")
    for name in exact:
        print(f"{name:52} {exact[name][0]:15.1e} {exact[name][1]:9.1e} {single[name][0]:15.1e} {single[name][1]:9.1e}")
