"""From a third of the answers right to nine in ten, by reward alone: a small model that learned sums from careless pupils.

Four of five pupils forget to carry, so a model that imitates them forgets as often: supervised learning, whether on text
or on answers, cannot tell the right habit from the common one. GRPO then samples answers, rewards those whose result is
right, and nothing else.

    python examples/align/reinforce.py [--seeds 0 1 2 3 4] [--variant grpo] [--config FILE.toml] [--quick]

One to two minutes a seed on one core. Writes results/reinforce_VARIANT.json and .png; with --quick nothing is written.

Left out on purpose: a reference model. There is nothing here to be kept but the skill that the reward itself checks.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from _shared import (
    HERE,
    SPEAKS,
    accuracy,
    careless_model,
    read_settings,
    running_mean,
    save_figure,
    write_results,
)

from llmcore.align import GRPOConfig, GRPOTrainer
from llmcore.align.sums import make_sums, sum_reward

TARGET = 0.9


def one_run(settings: dict[str, Any], variant: str, seed: int, folder: str) -> dict[str, Any]:
    """Accuracies after each stage, and the curves of GRPO."""
    begin = time.perf_counter()
    model, found = careless_model(settings, seed, folder)
    test_rows = settings["world"]["test_rows"]
    found["sft_greedy"] = accuracy(model, test_rows, temperature=0.0)
    config = GRPOConfig(
        out_dir=f"{folder}/grpo",
        variant=variant,
        seed=seed,
        device="cpu",
        progress=False,
        resume="never",
        **settings["grpo"],
    )
    trainer = GRPOTrainer(
        config, model, make_sums(settings["world"]["rows"], seed + 1000), sum_reward(), **SPEAKS,
        eval_rows=make_sums(test_rows, seed=99, test=True),
    )  # fmt: skip
    halfway = time.perf_counter()
    result = trainer.fit()
    found["grpo"], found["grpo_greedy"] = accuracy(model, test_rows), accuracy(model, test_rows, temperature=0.0)
    curves = {
        name: [record[name] for record in result.records] for name in ("reward", "entropy", "length", "grad_norm")
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "seed": seed, "parameters": parameters, "accuracy": found, "seconds_before_grpo": halfway - begin,
        "seconds_of_grpo": result.seconds, "greedy_accuracy": [[one["step"], one["reward"]] for one in result.evaluations],
        "curves": curves,
    }  # fmt: skip


def draw(runs: list[dict[str, Any]]) -> Any:
    """Reward, entropy and greedy accuracy on held-out sums over the steps of GRPO, a line per seed."""
    from llmcore.figures.base import new_figure

    figure, axes = new_figure(1, 3, width=13.0, height=4.0)
    for run in runs:
        steps = range(1, len(run["curves"]["reward"]) + 1)
        axes[0].plot(steps, running_mean(run["curves"]["reward"], 10), label=f"seed {run['seed']}")
        axes[1].plot(*zip(*run["greedy_accuracy"]))
        axes[2].plot(steps, running_mean(run["curves"]["entropy"], 10))
    titles = ("Reward while training (mean of 10 steps)", "Held-out sums, greedy", "Entropy, nats per token")
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel="step of GRPO")
    for axis in axes[:2]:
        axis.set_ylim(0, 1)
        axis.axhline(TARGET, color="0.5", linewidth=1, linestyle="--")
    axes[0].legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--variant", default="grpo", choices=("grpo", "dr_grpo", "dapo", "gspo"))
    parser.add_argument("--config", default=str(HERE / "reinforce.toml"))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = read_settings(options.config, options.quick)
    runs, begin = [], time.perf_counter()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(one_run(settings, options.variant, seed, folder))
        shares = ", ".join(f"{name} {value:.1%}" for name, value in runs[-1]["accuracy"].items())
        print(f"seed {seed}: {shares}; {runs[-1]['seconds_of_grpo']:.0f} s of GRPO", flush=True)
        if not options.quick:
            reached = [run["seed"] for run in runs if run["accuracy"]["grpo"] >= TARGET]
            name, found = f"reinforce_{options.variant}", {"target": TARGET, "seeds_at_target": reached, "runs": runs}
            write_results(name, settings, found, time.perf_counter() - begin)
            save_figure(name, draw(runs))


if __name__ == "__main__":
    main()
