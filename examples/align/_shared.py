"""What the examples here share: settings, the model that sums as careless pupils do, the record of a run."""

import sys
import tomllib
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _record import write_record

from llmcore.align import Encoder, SFTTrainer, mean_reward
from llmcore.align.sums import SumTokenizer, make_sums, sum_reward
from llmcore.model import ModelConfig, Transformer
from llmcore.train import TrainConfig

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
TOKENIZER = SumTokenizer()
SPEAKS = {"tokenizer": TOKENIZER, "end_id": TOKENIZER.end_id}


def read_settings(path: str | Path, quick: bool) -> dict[str, Any]:
    """The settings of a TOML file; quick puts those of its table [quick] in place."""
    settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    changes = settings.pop("quick")
    for table, values in changes.items() if quick else ():
        settings[table] |= values
    return settings


def careless_model(settings: dict[str, Any], seed: int, folder: str) -> tuple[Transformer, dict[str, float]]:
    """(model, its accuracies): trained on worked sums as text, then on their answers; in both most carries are forgotten.

    The text has no end of a question: every token is learned. The answers are learned after their questions only.
    """
    world, options = settings["world"], {"device": "cpu", "progress": False, "resume": "never", "seed": seed}
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **settings["model"])
    model = Transformer(config, torch.Generator().manual_seed(seed))
    rows = make_sums(world["rows"], seed, careless=world["careless"])
    texts = [{"prompt": row["prompt"][0], "response": row["prompt"][1:] + row["response"]} for row in rows]
    found = {}
    for stage, examples in (("base", texts), ("sft", rows)):
        train = TrainConfig(out_dir=f"{folder}/{stage}", **settings[stage], **options)
        SFTTrainer(train, model, examples, **SPEAKS).fit()
        found[stage] = accuracy(model, world["test_rows"])
    return model, found


def accuracy(model: Transformer, test_rows: int, temperature: float = 1.0) -> float:
    """Share of held-out sums that the model gets right, sampled at that temperature (0: greedy); the same sums for every run."""
    return mean_reward(
        model, make_sums(test_rows, seed=99, test=True), sum_reward(), Encoder(**SPEAKS), max_tokens=12, temperature=temperature,
        generator=torch.Generator().manual_seed(99),
    )  # fmt: skip


def write_results(name: str, settings: dict[str, Any], found: dict[str, Any], seconds: float) -> None:
    """Write results/NAME.json: what was found, and the command, date, settings and versions that it was found with."""
    write_record(RESULTS / f"{name}.json", "align", settings, found, seconds)


def save_figure(name: str, figure: Any) -> None:
    """Write results/NAME.png."""
    from llmcore.figures.base import render_png

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.png").write_bytes(render_png(figure))


def running_mean(values: list[float], window: int) -> list[float]:
    """The mean of each value and those up to `window` - 1 before it."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(window, i + 1) for i in range(len(values))]
