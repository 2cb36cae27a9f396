"""The trainers on tiny models: exact resuming, exact accumulation, frozen references, adapters, and what they refuse."""

import json
import math

import pytest
import torch
from align_oracle import close
from refused import refused

from llmcore import align
from llmcore.align.sums import SumTokenizer, make_sums, sum_reward
from llmcore.lora import inject
from llmcore.model import ModelConfig, Transformer
from llmcore.train import NonFiniteError
from llmcore.train.report import read_log

TOKENIZER = SumTokenizer()
ROWS = make_sums(30, seed=0)
PAIRS = make_sums(9, seed=0, carrying=1.0)
SPEAKS = {"tokenizer": TOKENIZER, "end_id": TOKENIZER.end_id}
SMALL = {"total_steps": 6, "batch_size": 8, "lr": 3e-3, "progress": False, "device": "cpu"}


def tiny(seed: int = 0, **changes) -> Transformer:
    options = {"vocab_size": TOKENIZER.vocab_size, "context": 32, "width": 16, "n_layers": 2, "n_heads": 2} | changes
    return Transformer(ModelConfig(**options), torch.Generator().manual_seed(seed))


def ones(row, response) -> float:
    """A reward that differs within every group."""
    return float(response.count("1"))


def make_trainer(kind: str, folder, model: Transformer | None = None, **changes):
    model = model or tiny()
    options = SMALL | {"out_dir": str(folder)} | changes
    if kind == "dpo":
        return align.DPOTrainer(align.DPOConfig(**options), model, PAIRS, **SPEAKS)
    if kind == "reward":
        return align.RewardTrainer(align.RewardConfig(**options), model, PAIRS, **SPEAKS)
    options |= {"max_tokens": 7}
    if kind == "ppo":
        return align.PPOTrainer(align.PPOConfig(**options), model, ROWS, ones, **SPEAKS)
    return align.GRPOTrainer(align.GRPOConfig(**({"group_size": 4} | options)), model, ROWS, ones, **SPEAKS)


KINDS = {
    "dpo": ("dpo", {"nll_weight": 0.1}),
    "ipo, reference once, accumulated": ("dpo", {"loss": "ipo", "reference": "once", "micro_batch": 3}),
    "reward model": ("reward", {"centre": 0.01}),
    "grpo": ("grpo", {"beta": 0.1}),
    "grpo, several updates per rollout": ("grpo", {"epochs": 2, "minibatches": 2, "beta": 0.1, "kl_in": "reward"}),
    "dapo, accumulated": ("grpo", {"variant": "dapo", "micro_batch": 3, "overlong_buffer": 2, "mask_truncated": True}),
    "gspo, old log-probabilities by a forward": ("grpo", {"variant": "gspo", "epochs": 3, "old_logprobs": "forward"}),
    "ppo": ("ppo", {"minibatches": 2}),
}


class Killed(BaseException):
    """Ends a run as abruptly as a signal that cannot be caught, without ending the tests."""


def run_until(trainer, step: int) -> None:
    train_step = trainer.train_step

    def step_or_die():
        if trainer.step == step:
            raise Killed
        return train_step()

    trainer.train_step = step_or_die
    with pytest.raises(Killed):
        trainer.fit()


@pytest.mark.parametrize("name", KINDS)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    kind, options = KINDS[name]
    options = options | {"save_every": 1}
    whole = make_trainer(kind, tmp_path / "whole", **options).fit()
    run_until(make_trainer(kind, tmp_path / "cut", **options), step=3)
    resumed = make_trainer(kind, tmp_path / "cut", **options).fit()
    assert whole.steps == resumed.steps == 6
    assert whole.records == resumed.records
    assert len({record["loss"] for record in whole.records}) > 3
    for (key, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
        assert torch.equal(a, b), key
    logs = [read_log(tmp_path / run / "log.jsonl") for run in ("whole", "cut")]
    timeless = [[{k: v for k, v in one.items() if k != "tokens_per_s"} for one in log] for log in logs]
    assert timeless[0] == timeless[1]
    assert [one["step"] for one in timeless[0]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", ["dpo", "reward model", "grpo", "dapo, accumulated", "ppo"])
def test_micro_batches_have_the_gradients_of_the_whole_batch(name, tmp_path):
    kind, options = KINDS[name]
    options = options | {"total_steps": 1, "clip_norm": None, "lr": 0.0}
    found = {}
    for micro_batch in (None, 3):
        trainer = make_trainer(
            kind, tmp_path / str(micro_batch), tiny().double(), **(options | {"micro_batch": micro_batch})
        )
        with trainer.running():
            for loss, _ in trainer._losses(1):
                loss.backward()
            found[micro_batch] = [p.grad.clone() for p in trainer.parameters if p.grad is not None]
    assert max(gradient.abs().max() for gradient in found[None]) > 1e-4
    for whole, parts in zip(found[None], found[3]):
        close(parts, whole, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo"])
def test_every_variant_earns_more_reward(variant, tmp_path):
    """Ones per answer of at most 7 tokens: from about 0.4 by chance to more than twice that."""
    options = {"total_steps": 40, "batch_size": 32, "group_size": 8, "variant": variant, "lr": 1e-2}
    records = make_trainer("grpo", tmp_path, **options).fit().records
    first, last = (sum(record["reward"] for record in some) / 5 for some in (records[:5], records[-5:]))
    assert last > 2 * first
    assert {"reward", "reward_std", "entropy", "length", "clip_fraction", "informative", "loss", "grad_norm"} <= set(
        records[0]
    )


def test_ppo_and_the_reward_model_and_dpo_learn(tmp_path):
    ppo = make_trainer("ppo", tmp_path / "ppo", total_steps=60, batch_size=32, lr=1e-2, beta=0.001).fit().records
    assert sum(r["reward"] for r in ppo[-5:]) > 2 * sum(r["reward"] for r in ppo[:5])
    reward = make_trainer("reward", tmp_path / "reward", total_steps=60, lr=1e-2).fit().records
    assert reward[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert reward[-1]["accuracy"] == 1
    dpo = make_trainer("dpo", tmp_path / "dpo", total_steps=40, lr=3e-3).fit().records
    assert dpo[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert dpo[-1]["loss"] < 0.5


def test_the_reference_stays_as_it_was_and_adapters_serve_as_well_as_a_copy(tmp_path):
    records = {}
    for name in ("adapters", "copy"):
        model = tiny()
        inject(model, ["q_proj", "v_proj"], r=2, alpha=8, generator=torch.Generator().manual_seed(1))
        before = {key: value.clone() for key, value in model.state_dict().items()}
        reference = tiny() if name == "copy" else None
        config = align.DPOConfig(**SMALL, out_dir=str(tmp_path / name))
        trainer = align.DPOTrainer(config, model, PAIRS, **SPEAKS, reference=reference)
        records[name] = trainer.fit().records
        assert trainer.reference.uses_adapters == (name == "adapters")
        changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
        assert changed
        assert all("lora" in key for key in changed)
        assert len(trainer.optimizer.state) == len([p for p in model.parameters() if p.requires_grad])
    for one, other in zip(records["adapters"], records["copy"]):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)


def test_equal_rewards_give_a_step_without_gradient_and_no_nan(tmp_path):
    trainer = align.GRPOTrainer(
        align.GRPOConfig(**SMALL, out_dir=str(tmp_path), max_tokens=5, variant="dapo"),
        tiny(),
        ROWS,
        lambda *_: 1.0,
        **SPEAKS,
    )
    before = [value.clone() for value in trainer.model.state_dict().values()]
    records = trainer.fit().records
    assert all(record["grad_norm"] == 0 and record["informative"] == 0 for record in records)
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.state_dict().values()))


def test_dynamic_sampling_fills_the_batch_with_groups_that_differ(tmp_path):
    def rarely(row, response):
        return float(response.startswith("1"))

    shares = {}
    for dynamic in (False, True):
        config = align.GRPOConfig(
            **(SMALL | {"total_steps": 1, "batch_size": 64, "lr": 0.0}), out_dir=str(tmp_path / str(dynamic)), max_tokens=3,
            group_size=4, dynamic_sampling=dynamic, max_resamples=30,
        )  # fmt: skip
        trainer = align.GRPOTrainer(config, tiny(), ROWS, rarely, **SPEAKS)
        with trainer.running():
            trainer.train_step()
        groups = trainer._experience.advantages.view(-1, 4)
        assert groups.shape == (16, 4)
        shares[dynamic] = (groups != 0).any(dim=1).float().mean().item()
        assert torch.equal(
            align.group_advantages(trainer._experience.rewards, 4), trainer._experience.advantages
        )  # rows stayed beside their group
        texts = [TOKENIZER.decode(ids) for ids in trainer._experience.responses()]
        assert trainer._experience.rewards.tolist() == [rarely(None, text) for text in texts]
    assert shares[False] < 0.6
    assert shares[True] == 1


def test_long_answers_pay_and_truncated_ones_are_left_out(tmp_path):
    config = align.GRPOConfig(
        **(SMALL | {"total_steps": 1}), out_dir=str(tmp_path), max_tokens=6, overlong_buffer=2, mask_truncated=True
    )
    trainer = align.GRPOTrainer(config, tiny(), ROWS, lambda *_: 0.0, **SPEAKS)
    with trainer.running():
        trainer.train_step()
    rows = trainer._experience
    want = [align.overlong_penalty(n, 6, 2) for n in rows.response_lengths.tolist()]
    assert rows.rewards.tolist() == want
    weights = trainer._weights(rows)
    assert (weights[~rows.ended] == 0).all()


def test_the_penalty_is_taken_once_wherever_it_is(tmp_path):
    """With zero rewards and a reference unlike the policy, advantages or the loss show the penalty, never both."""
    for kind, kl_in in (("grpo", "loss"), ("grpo", "reward"), ("ppo", "reward"), ("ppo", "loss")):
        reference = tiny(seed=9)
        with torch.no_grad():
            reference.embedding.weight.mul_(15)
        options = SMALL | {
            "total_steps": 1,
            "out_dir": str(tmp_path / f"{kind}_{kl_in}"),
            "beta": 0.5,
            "kl": "k1",
            "max_tokens": 4,
        }
        if kind == "grpo":
            config, trainer_type = align.GRPOConfig(**options, kl_in=kl_in, normalize_std=False), align.GRPOTrainer
        else:
            config = align.PPOConfig(**options, kl_in=kl_in, epochs=1, whiten=False, lam=1.0)
            trainer_type = align.PPOTrainer
        trainer = trainer_type(config, tiny(), ROWS, lambda *_: 0.0, **SPEAKS, reference=reference)
        with trainer.running():
            trainer.train_step()
        rows = trainer._experience
        drift = torch.where(rows.response_mask, rows.logp - rows.ref_logp, 0)
        assert drift.abs().max() > 0.1
        if kind == "grpo":
            expected = align.centre_in_groups(-0.5 * drift.sum(dim=1), config.group_size)
            close(rows.advantages, expected if kl_in == "reward" else torch.zeros(8), atol=1e-5, rtol=1e-5)
        else:  # an untrained critic expects 0, so the advantage is what is still to come
            later = -0.5 * drift.flip(1).cumsum(1).flip(1)
            close(rows.token_advantages, later if kl_in == "reward" else 0 * later, atol=1e-4, rtol=1e-4)


def test_old_log_probabilities_of_the_sampler_equal_those_of_a_forward(tmp_path):
    found = {}
    for source in ("rollout", "forward"):
        trainer = make_trainer("grpo", tmp_path / source, epochs=2, old_logprobs=source, temperature=0.7, total_steps=1)
        with trainer.running():
            trainer.train_step()
        found[source] = trainer._experience.old_logp
    assert found["rollout"].abs().max() > 1
    close(found["rollout"], found["forward"], atol=1e-5, rtol=1e-5)


def test_figures_of_a_run_are_in_the_log_and_in_tensorboard_and_evaluations_too(tmp_path):
    trainer = align.GRPOTrainer(
        align.GRPOConfig(**SMALL, out_dir=str(tmp_path), max_tokens=9, eval_every=3, tensorboard=True, beta=0.1), tiny(), ROWS,
        {"right": sum_reward(), "short": (0.1, lambda row, text: -float(len(text)))}, **SPEAKS, eval_rows=ROWS[:5],
    )  # fmt: skip
    result = trainer.fit()
    assert [one["step"] for one in result.evaluations] == [0, 3, 6]
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    steps = [one for one in records if "loss" in one]
    assert {"reward_right", "reward_short", "kl", "tokens"} <= set(steps[0])
    assert steps[0]["reward"] == pytest.approx(steps[0]["reward_right"] + 0.1 * steps[0]["reward_short"], abs=1e-5)
    assert sum("eval_reward" in one for one in records) == 3
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        ("GRPOConfig", {"batch_size": 10, "group_size": 4}, "multiple of group_size=4, got 10; 8 would do"),
        ("GRPOConfig", {"temperature": 0.0}, "temperature must be positive, got 0.0; greedy answers"),
        ("GRPOConfig", {"variant": "reinforce"}, "variant must be one of grpo, dr_grpo, dapo, gspo, got 'reinforce'"),
        ("GRPOConfig", {"eps_high": -0.1}, "eps_high must be at least 0"),
        ("GRPOConfig", {"beta": math.nan}, "beta must be at least 0"),
        ("DPOConfig", {"beta": 0.0}, "beta must be positive"),
        ("DPOConfig", {"loss": "hinge"}, "loss must be one of dpo, ipo"),
        ("DPOConfig", {"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing belongs to"),
        ("PPOConfig", {"lam": 1.5}, "gamma and lam must be in"),
        ("RewardConfig", {"centre": -1.0}, "centre must be at least 0"),
        ("AlignConfig", {"min_lr": 1.0}, "min_lr must be in"),
        ("AlignConfig", {"clip_norm": 0.0}, "clip_norm must be positive"),
        ("AlignConfig", {"micro_batch": 0}, "micro_batch must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(config, change, message):
    with refused(message):
        getattr(align, config)(**change)


def test_rows_that_cannot_be_are_named(tmp_path):
    good = PAIRS[0]
    cases = {
        "row 1 has no field 'chosen'; it has 'prompt', 'rejected'": {"prompt": "1+1=", "rejected": "2"},
        "row 1, field 'prompt': this world has the symbols": good | {"prompt": "one+1="},
        "row 1: chosen and rejected are the same": good | {"chosen": "2", "rejected": "2"},
        "row 1, field 'rejected' must be a text or a list of ids": good | {"rejected": 7},
        "row 1, field 'prompt': a prompt must have at least one token": good | {"prompt": ""},
        "row 1 must be a mapping of fields": "1+1=2",
    }
    for message, row in cases.items():
        with refused(message):
            align.DPOTrainer(align.DPOConfig(**SMALL), tiny(), [good, row], **SPEAKS)
    with refused("row 1 has no field 'prompt'"):
        align.GRPOTrainer(align.GRPOConfig(**SMALL), tiny(), [good, {"question": "1+1="}], ones, **SPEAKS)
    with refused("at least one row of data"):
        align.GRPOTrainer(align.GRPOConfig(**SMALL), tiny(), [], ones, **SPEAKS)
    with refused("is a text: pass tokenizer"):
        align.DPOTrainer(align.DPOConfig(**SMALL), tiny(), [good])


def test_an_empty_response_is_a_response(tmp_path):
    rows = [{"prompt": [5, 6], "chosen": [7, 8], "rejected": []}, {"prompt": [5], "chosen": [1], "rejected": [2, 3]}]
    for kind, config in ((align.DPOTrainer, align.DPOConfig), (align.RewardTrainer, align.RewardConfig)):
        result = kind(config(**(SMALL | {"out_dir": str(tmp_path / kind.__name__)})), tiny(), rows).fit()
        assert all(math.isfinite(value) for record in result.records for value in record.values())


def test_rewards_that_fail_name_the_row_and_the_response(tmp_path):
    def broken(row, response):
        raise ValueError("no opinion")

    for reward, message in (
        (broken, "reward 'broken' failed on row .*no opinion"),
        (lambda *_: math.nan, "must be finite, got nan"),
    ):
        trainer = align.GRPOTrainer(align.GRPOConfig(**SMALL, out_dir=str(tmp_path)), tiny(), ROWS, reward, **SPEAKS)
        with refused(message):
            trainer.fit()


def test_references_that_cannot_be_compared_are_refused(tmp_path):
    config = align.DPOConfig(**SMALL, out_dir=str(tmp_path))
    model = tiny()
    cases = {
        "the reference is on meta and the model on cpu; move it with .to.'cpu'.": tiny().to("meta"),
        "must share a vocabulary, got 20 and 15 tokens": tiny(vocab_size=20),
        "must not be the model that is trained": model,
    }
    for message, reference in cases.items():
        with refused(message):
            align.DPOTrainer(config, model, PAIRS[:4], **SPEAKS, reference=reference).fit()


def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights(tmp_path):
    trainer = make_trainer("dpo", tmp_path, save_every=1)
    with torch.no_grad():
        trainer.model.blocks[0].ffn.up_proj.weight[0, 0] = math.nan
    with pytest.raises(
        NonFiniteError, match=r"at step 1 is not finite; the first bad tensor is parameter blocks\.0\.ffn"
    ):
        trainer.fit()
