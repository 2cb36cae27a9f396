"""DPO makes both answers of a pair less likely; a term of negative log-likelihood on the chosen one prevents it.

A small model learned sums from careless pupils, as in reinforce.py. Pairs of worked sums, carried against not carried,
differ in a few digits. DPO's loss wants their margin only, and finds it by making the rejected answers very unlikely,
while the chosen ones lose probability too. With the NLL term the margin grows and the chosen answers become likely.

    python examples/align/preferences.py [--seeds 0] [--config FILE.toml] [--quick]

About a minute on one core. Writes results/preferences.json and .png; with --quick nothing is written.

Left out on purpose: other cures (a larger beta, IPO, answers sampled from the model itself).
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from _shared import HERE, SPEAKS, accuracy, careless_model, read_settings, save_figure, write_results

from llmcore.align import DPOConfig, DPOTrainer
from llmcore.align.sums import make_sums
from llmcore.model import Transformer

SHOWN = ("logp_chosen", "logp_rejected", "margin", "accuracy", "loss")


def one_run(model: Transformer, settings: dict[str, Any], nll_weight: float, seed: int, folder: str) -> dict[str, Any]:
    """Both log-probabilities on held-out pairs over the steps, and the accuracy of sampled answers at the end."""
    options = dict(settings["dpo"])
    n_pairs, n_test = options.pop("pairs"), options.pop("test_pairs")
    del options["nll_weights"]
    config = DPOConfig(
        out_dir=f"{folder}/dpo_{nll_weight}",
        nll_weight=nll_weight,
        seed=seed,
        device="cpu",
        progress=False,
        resume="never",
        **options,
    )
    pairs = make_sums(n_pairs, seed + 2000, carrying=1.0)
    test = make_sums(n_test, seed=98, carrying=1.0, test=True)
    trainer = DPOTrainer(config, copy.deepcopy(model), pairs, **SPEAKS, eval_rows=test)
    result = trainer.fit()
    first, last = result.evaluations[0], result.evaluations[-1]
    return {
        "seed": seed, "nll_weight": nll_weight, "seconds": result.seconds,
        "first": {name: first[name] for name in SHOWN}, "last": {name: last[name] for name in SHOWN},
        "sampled_accuracy": accuracy(result.model, settings["world"]["test_rows"]),
        "curves": {name: [one[name] for one in result.evaluations] for name in ("step", *SHOWN)},
    }  # fmt: skip


def draw(runs: list[dict[str, Any]]) -> Any:
    """Log-probabilities of chosen and rejected answers on held-out pairs, a panel for each weight of the NLL term."""
    from llmcore.figures.base import new_figure

    weights = sorted({run["nll_weight"] for run in runs})
    figure, axes = new_figure(1, len(weights), width=5.5 * len(weights), height=4.2)
    for axis, weight in zip(axes, weights):
        for run in runs:
            if run["nll_weight"] != weight:
                continue
            curves, is_first = run["curves"], run["seed"] == runs[0]["seed"]
            axis.plot(curves["step"], curves["logp_chosen"], color="#0072B2", label="chosen" if is_first else None)
            axis.plot(
                curves["step"],
                curves["logp_rejected"],
                color="#D55E00",
                linestyle="--",
                label="rejected" if is_first else None,
            )
        axis.set(title=f"DPO, NLL weight {weight:g}", xlabel="step", ylabel="log-probability, nats per answer")
        axis.set_yscale("symlog", linthresh=1.0)
        axis.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--config", default=str(HERE / "preferences.toml"))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = read_settings(options.config, options.quick)
    runs, starts, begin = [], [], time.perf_counter()
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            model, found = careless_model(settings, seed, folder)
            starts.append({"seed": seed, **found})
            for weight in settings["dpo"]["nll_weights"]:
                run = one_run(model, settings, weight, seed, folder)
                runs.append(run)
                moves = ", ".join(f"{name} {run['first'][name]:.2f} -> {run['last'][name]:.2f}" for name in SHOWN[:3])
                print(
                    f"seed {seed}, NLL weight {weight:g}: {moves}, sampled accuracy {run['sampled_accuracy']:.1%}",
                    flush=True,
                )
    if not options.quick:
        write_results("preferences", settings, {"before": starts, "runs": runs}, time.perf_counter() - begin)
        save_figure("preferences", draw(runs))


if __name__ == "__main__":
    main()
