"""One GRPO update on one CPU thread, the same rollouts: llmcore's trainer against TRL's, the same weights.

A Llama of 0.8M parameters (width 128, feed-forward 344, 4 layers, 4 heads); 32 responses (4 prompts of 12 to 24 tokens,
8 responses to each of 8 to 32 tokens). A step takes sampled tokens and advantages and does the loss, the backward pass,
clipping at 1 and AdamW; with beta > 0 also the reference's log-probabilities. llmcore's also writes its log. One update
per rollout: both take the current log-probabilities for the old ones. Each runs in a process of its own, by turns;
figures are medians. Loss and gradient norm of the first step must agree, or nothing is reported.

    python benchmarks/grpo_step.py [--quick] [--rounds 9]

Needs trl and transformers. Left out on purpose: sampling (see decoding.py), rewards, collating.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from _report import answer, finish, medians_of_processes
from torch import Tensor

from llmcore.align import GRPOConfig, GRPOTrainer, Rollout, Sequences
from llmcore.align.experience import Experience
from llmcore.model import PRESETS, Transformer, save_pretrained

TARGET, STRETCH = 1.3, 2.0
BETAS = (0.0, 0.04)
N_PROMPTS, GROUP, MOST_NEW = 4, 8, 32
LR = 1e-4


def new_model() -> Transformer:
    return Transformer(PRESETS["llama-0.8m"], torch.Generator().manual_seed(0))


def data() -> tuple[list[list[int]], list[list[int]], Tensor]:
    """(prompts, responses, advantages), one entry per response."""
    generator = torch.Generator().manual_seed(1)

    def ids(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(3, 256, (length,), generator=generator).tolist()

    prompts = [prompt for prompt in (ids(12, 24) for _ in range(N_PROMPTS)) for _ in range(GROUP)]
    responses = [ids(8, MOST_NEW) for _ in prompts]
    responses[0] = (responses[0] * MOST_NEW)[:MOST_NEW]
    return prompts, responses, torch.randn(len(prompts), generator=generator)


def own_step(beta: float, folder: str, stack: contextlib.ExitStack) -> Callable[[], dict[str, float]]:
    """A function that does one update of llmcore's trainer and gives its figures."""
    prompts, responses, advantages = data()
    config = GRPOConfig(
        out_dir=folder, total_steps=10**6, batch_size=len(prompts), group_size=GROUP, max_tokens=MOST_NEW, beta=beta, lr=LR,
        betas=(0.9, 0.999), progress=False, device="cpu", resume="never",
    )  # fmt: skip
    trainer = GRPOTrainer(config, new_model(), [{"prompt": [1]}], lambda row, response: 0.0)
    rows = Sequences.of(prompts, responses)
    zeros = torch.zeros(rows.response_mask.shape)
    sampled = Rollout(**rows.as_dict(), logp=zeros, ended=torch.ones(len(prompts), dtype=torch.bool))

    def explore(round_number: int, generator: torch.Generator) -> tuple[Experience, dict[str, float]]:
        ref_logp = zeros if trainer.reference is None else trainer.reference.logprobs(sampled)
        parts = {"rewards": advantages, "advantages": advantages, "old_logp": zeros, "ref_logp": ref_logp}
        return Experience(**sampled.as_dict(), **parts), {}

    trainer._explore = explore
    stack.enter_context(trainer.running())
    return trainer.train_step


def quiet_peer(folder: str) -> tuple[Any, Any]:
    """(transformers model with the same weights, a tokenizer that TRL is content with).

    Raises: SystemExit with one sentence when TRL is not installed.
    """
    warnings.filterwarnings("ignore")
    try:
        import transformers
        import trl  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"this compares with TRL, and {error.name} is not installed: pip install trl") from None
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    save_pretrained(new_model(), folder)
    vocabulary = {f"w{index}": index for index in range(256)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="w0")),
        pad_token="w0",
        eos_token="w2",
        unk_token="w0",
    )
    return transformers.AutoModelForCausalLM.from_pretrained(folder), tokenizer


def peer_options(folder: str) -> dict[str, Any]:
    """What both of TRL's trainers are told."""
    return {
        "output_dir": folder, "use_cpu": True, "report_to": [], "learning_rate": LR, "bf16": False, "fp16": False,
        "gradient_checkpointing": False, "disable_tqdm": True, "max_grad_norm": 1.0, "save_strategy": "no",
    }  # fmt: skip


def update_of(trainer: Any, loss_of: Callable[[], Tensor]) -> Callable[[], dict[str, float]]:
    """A function that does one update as transformers' Trainer does: loss, backward, clipping, its optimizer."""
    model, optimizer = trainer.model, trainer.create_optimizer()
    model.train()

    def step() -> dict[str, float]:
        loss = loss_of()
        trainer.accelerator.backward(loss)
        norm = trainer.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "grad_norm": float(norm)}

    return step


def peer_step(beta: float, folder: str) -> Callable[[], dict[str, float]]:
    """A function that does one update with TRL's loss."""
    model, tokenizer = quiet_peer(folder)
    import trl
    from datasets import Dataset

    prompts, responses, advantages = data()
    args = trl.GRPOConfig(
        **peer_options(folder), per_device_train_batch_size=len(prompts), num_generations=GROUP, beta=beta, loss_type="grpo",
        max_completion_length=MOST_NEW, scale_rewards="group", steps_per_generation=1,
    )  # fmt: skip
    rows = Dataset.from_dict({"prompt": ["w3 w4"] * len(prompts)})
    trainer = trl.GRPOTrainer(
        model=model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=args, train_dataset=rows,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    width = max(map(len, prompts))
    longest = max(map(len, responses))
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(p)) + p for p in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": torch.tensor([r + [0] * (longest - len(r)) for r in responses]),
        "completion_mask": torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in responses]),
        "advantages": advantages,
        "num_items_in_batch": torch.tensor(sum(map(len, responses))),
    }
    both = {
        "input_ids": torch.cat((inputs["prompt_ids"], inputs["completion_ids"]), dim=1),
        "attention_mask": torch.cat((inputs["prompt_mask"], inputs["completion_mask"]), dim=1),
    }

    def loss_of() -> Tensor:
        if beta:
            with torch.no_grad():
                inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
                    trainer.ref_model, logits_to_keep=longest, **both
                )[0]
        return trainer.compute_loss(trainer.model, inputs)

    return update_of(trainer, loss_of)


def serve(side: str, beta: float, each: int) -> None:
    """What a child process does: steps of one side, whenever it is asked; first it says the figures of its first step."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        with contextlib.redirect_stdout(sys.stderr):
            step = own_step(beta, folder, stack) if side == "llmcore" else peer_step(beta, folder)
            first = step()
        Path(os.environ["FIRST_STEP"]).write_text(f"{first['loss']} {first['grad_norm']}", encoding="utf-8")
        answer(step, each)


def compare(script: str, settings: list[list[str]], rounds: int, tolerance: float) -> list[dict[str, float]]:
    """Median seconds of a step of both sides for each of the settings, once their first steps agree.

    Raises: SystemExit when they do not.
    """
    found = []
    for setting in settings:
        with tempfile.TemporaryDirectory() as folder:
            places = {side: Path(folder) / side for side in ("llmcore", "trl")}
            commands = {
                side: ["env", f"FIRST_STEP={place}", sys.executable, script, "--serve", side, *setting]
                for side, place in places.items()
            }
            seconds = medians_of_processes(commands, rounds)
            first = [[float(one) for one in place.read_text(encoding="utf-8").split()] for place in places.values()]
        if any(abs(a - b) > tolerance * max(1.0, abs(b)) for a, b in zip(*first)):
            raise SystemExit(
                f"the first steps differ (loss, gradient norm): {first}; speeds of different sums are not compared"
            )
        found.append(seconds)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for CI")
    parser.add_argument("--rounds", type=int, help="timed bursts of each (default 9, quick 5)")
    parser.add_argument("--serve", nargs=2, metavar=("SIDE", "BETA"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], float(options.serve[1]), each=2)
        return
    rounds = options.rounds or (5 if options.quick else 9)
    torch.set_num_threads(1)
    found = compare(__file__, [[str(beta)] for beta in BETAS], rounds, tolerance=1e-4)
    rows = [
        {
            "name": f"GRPO step, 0.8M Llama, 32 responses, {'reference' if beta else 'no reference'}, 1 thread",
            "figure": round(1 / seconds["llmcore"], 2),
            "peer": round(1 / seconds["trl"], 2),
            "ratio": round(seconds["trl"] / seconds["llmcore"], 3),
            "unit": "steps/s",
            "target": TARGET,
            "stretch": STRETCH,
        }
        for beta, seconds in zip(BETAS, found)
    ]
    finish("grpo_step", rows, rounds=rounds, quick=options.quick, peer_is=f"trl {version('trl')}")


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


if __name__ == "__main__":
    main()
