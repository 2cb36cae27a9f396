"""What learning a second task costs the first: all weights, all weights with old text mixed in, the last block, or LoRA.

A small model of Python's documentation is trained, then taught arithmetic in several ways, each at several learning
rates. After every few steps the loss on held-out problems (gain) and on held-out documentation (forgetting) is measured.

    python examples/lora/forgetting.py [--config examples/lora/forgetting.toml] [--quick] [--out examples/lora/results]

About six minutes on one core; --quick does few steps. Writes forgetting.json and forgetting.png.

Left out on purpose: several seeds and a larger model; the ranking of learning rates is of this model.
"""

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F
from _results import HERE, RESULTS, read_settings, save_figure, write_results

from llmcore.data import Batch, ShuffledSource, WindowSource
from llmcore.data.synthetic import Problem, arithmetic, is_solved
from llmcore.generate import generate
from llmcore.lora import inject, lora_layers, merge, unload
from llmcore.model import Transformer
from llmcore.train import TrainConfig, Trainer


class MixedSource:
    """Rows of a new task, the last `old_rows` of every batch replaced by rows of old text."""

    def __init__(self, new: WindowSource, old: WindowSource, old_rows: int) -> None:
        self.new, self.old, self.old_rows = new, old, old_rows

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        """These rows of that step's batch."""
        new, old = self.new.batch(step, rows), self.old.batch(step, rows)
        is_old = torch.from_numpy(rows >= self.new.batch_size - self.old_rows)[:, None]
        return Batch(torch.where(is_old, old.ids, new.ids), torch.where(is_old, old.targets, new.targets))

    def state(self) -> dict[str, Any]:
        """The step says it all."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to go back to."""


def train_base(settings: dict[str, Any], folder: str) -> Trainer:
    """The model of the documentation, with its tokenizer and tokens."""
    trainer = Trainer(
        TrainConfig(
            out_dir=f"{folder}/base",
            seed=settings["seed"],
            device="cpu",
            progress=False,
            resume="never",
            **settings["base"],
        )
    )
    trainer.fit()
    return trainer


def task_tokens(settings: dict[str, Any], tokenizer: Any) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
    """Tokens to learn from, tokens to evaluate on, and the problems behind these; no question is in both."""
    task = settings["task"]
    options = {"max_digits": task["max_digits"], "operations": task["operations"]}
    problems = list({one.question: one for one in arithmetic(task["problems"], settings["seed"], **options)}.values())
    test, train = problems[: task["test_problems"]], problems[task["test_problems"] :]
    ids = [np.array(tokenizer.encode("\n".join(one.text for one in part)), dtype=np.int64) for part in (train, test)]
    return ids[0], ids[1], test


@torch.no_grad()
def mean_loss(model: Transformer, tokens: np.ndarray, context: int, most_rows: int) -> float:
    """Nats per token on rows spread over the tokens."""
    source = ShuffledSource(tokens, 1, context, shuffle=False)
    rows = np.linspace(0, source.n_rows - 1, min(most_rows, source.n_rows)).astype(np.int64)
    batch = source.batch(0, rows)
    model.eval()
    loss = F.cross_entropy(model(batch.ids).flatten(0, 1), batch.targets.flatten()).item()
    model.train()
    return loss


def prepare_arm(base: Transformer, arm: dict[str, Any], seed: int) -> Transformer:
    """A copy of the base in which what the arm trains is trainable."""
    model = copy.deepcopy(base)
    if "rank" in arm:
        targets = arm.get("targets", "all-linear")
        inject(model, targets, arm["rank"], arm["alpha"], generator=torch.Generator().manual_seed(seed))
    elif arm["name"] == "last block":
        model.requires_grad_(False)
        model.blocks[-1].requires_grad_(True)
    return model


def tune(
    base: Trainer,
    arm: dict[str, Any],
    rate: float,
    tokens: tuple[np.ndarray, np.ndarray],
    settings: dict[str, Any],
    folder: str,
) -> dict[str, Any]:
    """One run: losses on both texts as it goes, and the model at its end."""
    tuning = settings["tuning"]
    model = prepare_arm(base.model, arm, settings["seed"])
    n_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = TrainConfig(
        out_dir=f"{folder}/tuned", seed=settings["seed"], device="cpu", progress=False, resume="never", lr=rate,
        **{name: value for name, value in tuning.items() if name not in ("eval_every", "eval_rows")},
    )  # fmt: skip
    old_train, old_test = base.prepared.train_tokens, base.prepared.eval_tokens
    source: Any = WindowSource(tokens[0], config.batch_size, config.context, seed=config.seed)
    if arm.get("old_rows"):
        source = MixedSource(
            source, WindowSource(old_train, config.batch_size, config.context, seed=1), arm["old_rows"]
        )
    curve = []
    with Trainer(config, model, source=source).running() as trainer:
        for step in range(config.total_steps + 1):
            if step % tuning["eval_every"] == 0:
                losses = (mean_loss(model, part, config.context, tuning["eval_rows"]) for part in (tokens[1], old_test))
                curve.append((step, *losses))
            if step < config.total_steps:
                trainer.train_step()
    if lora_layers(model):
        merge(model)
        unload(model)
    return {"arm": arm["name"], "rate": rate, "n_trainable": n_trainable, "curve": curve, "model": model.eval()}


def share_solved(model: Transformer, tokenizer: Any, problems: list[Problem]) -> float:
    """Share of the problems whose answer the model writes."""
    prompts = [tokenizer.encode(problem.question + "\n") for problem in problems]
    answers = generate(model, prompts, 70, temperature=0.0, stop="\n\n", tokenizer=tokenizer)
    texts = [tokenizer.decode(ids).split("\n\n")[0] + "\n" for ids in answers]
    return sum(is_solved(problem, text) for problem, text in zip(problems, texts)) / len(problems)


def draw(runs: list[dict[str, Any]]) -> Any:
    """Forgetting against gain: each run's path, a mark where it ends."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from llmcore.figures.base import CYCLE, STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 5))
        axes = figure.subplots()
        names = list(dict.fromkeys(run["arm"] for run in runs))
        for run in runs:
            place = names.index(run["arm"])
            _, new, old = zip(*run["curve"])
            first = run is next(other for other in runs if other["arm"] == run["arm"])
            axes.plot(new, old, color=CYCLE[place], linewidth=1.2, alpha=0.6)
            axes.plot(new[-1:], old[-1:], "osD^v"[place], color=CYCLE[place], label=run["arm"] if first else None)
            axes.annotate(f"{run['rate']:g}", (new[-1], old[-1]), xytext=(6, 4), textcoords="offset points", fontsize=9)
        for axis, ticks in ((axes.xaxis, (5, 3, 2, 1.5, 1, 0.7, 0.5)), (axes.yaxis, (2.5, 3, 4, 5, 7, 10, 15))):
            axis.axes.set(**{f"{axis.axis_name}scale": "log"})
            axis.set_minor_locator(NullLocator())
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.invert_xaxis()
        axes.set_xlabel("loss on the new task, nats per token: gain to the right")
        axes.set_ylabel("loss on the old text, nats per token")
        axes.set_title("What a second task costs the first, by learning rate")
        axes.legend(fontsize=10)
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=HERE / "forgetting.toml", help="a TOML file of settings")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the steps")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args()
    settings = read_settings(options.config)
    if options.quick:
        settings["base"] |= {"total_steps": 30}
        settings["tuning"] |= {"total_steps": 10, "eval_every": 5}
        settings["task"] |= {"test_problems": 5}
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        base = train_base(settings, folder)
        *tokens, problems = task_tokens(settings, base.tokenizer)
        runs = []
        for arm in settings["arm"]:
            for rate in arm["rates"]:
                run = tune(base, arm, rate, tuple(tokens), settings, folder)
                run["share_solved"] = share_solved(run.pop("model"), base.tokenizer, problems)
                _, new, old = run["curve"][-1]
                print(
                    f"{arm['name']}, rate {rate:g}: new task {new:.3f}, old text {old:.3f}, solved {run['share_solved']:.0%}"
                )
                runs.append(run)
    found = {"base": {"new_task_nats": runs[0]["curve"][0][1], "old_text_nats": runs[0]["curve"][0][2]}, "runs": runs}
    write_results(options.out / "forgetting.json", settings, found, time.perf_counter() - start)
    save_figure(options.out / "forgetting.png", draw(runs))


if __name__ == "__main__":
    main()
