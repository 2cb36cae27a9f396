"""`llmcore-train CONFIG.toml [--set key=value]`: train from a file. `llmcore-train --fields` lists every setting.

Under several processes: torchrun --nproc-per-node 8 -m llmcore.train.cli CONFIG.toml
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

HELP = """Train a language model as a TOML file says; run it again to go on after an interruption.

llmcore-train configs/cpu.toml

llmcore-train configs/cpu.toml --set total_steps=200 --set model.width=128

torchrun --nproc-per-node 8 -m llmcore.train.cli configs/gpt2-124m.toml
"""
STOPPED = 130
BIGRAM_TOKENS = 10_000_000
app = typer.Typer(help=HELP, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(help=HELP)
def train(
    config: Annotated[str | None, typer.Argument(help="a TOML file of settings")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="key=value; may be repeated")] = None,
    list_fields: Annotated[
        bool, typer.Option("--fields", help="list every setting with its default and leave")
    ] = False,
) -> None:
    from llmcore.train.config import TrainConfig, describe_fields

    if list_fields:
        for name, default, meaning in describe_fields():
            typer.echo(f"{name} = {default}\n    {meaning}")
        return
    if config is None:
        raise ValueError("name a TOML file, such as configs/cpu.toml; --fields lists the settings it may hold")
    settings = TrainConfig.from_toml(config, changes or ())

    from llmcore.train.trainer import Trainer

    trainer = Trainer(settings)
    result = trainer.fit()
    if trainer.place.is_first and result.losses:
        minutes = f"{result.seconds / 60:.1f} minutes"
        typer.echo(
            f"step {result.steps}: loss {result.losses[-1]:.4f} nats per token, {minutes}, checkpoint {result.checkpoint}"
        )
        _compare_with_bigrams(trainer, result)
    if result.interrupted:
        raise typer.Exit(STOPPED)


def _compare_with_bigrams(trainer: Any, result: Any) -> None:
    """Print the last evaluation loss beside what counting pairs of tokens gives."""
    from llmcore.data import bigram_loss

    data = trainer.prepared
    if not result.eval_losses or data.train_tokens is None or len(data.train_tokens) > BIGRAM_TOKENS:
        return
    baseline = bigram_loss(data.train_tokens, data.eval_tokens, data.vocab_size)
    typer.echo(f"evaluation loss {result.eval_losses[-1][1]:.4f}, of bigrams {baseline:.4f} nats per token")


def main() -> None:
    """Run the command; what a person can mend is one line on stderr and exit code 1."""
    try:
        app()
    except (ValueError, OSError, ArithmeticError) as error:
        print(
            f"llmcore-train: {error.strerror if isinstance(error, OSError) and error.strerror else error}",
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
