"""The examples run, and their committed results say what their texts say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "align"


@pytest.mark.slow
@pytest.mark.parametrize("script", ["reinforce.py", "preferences.py"])
def test_quick_runs_end_well_and_write_nothing(script):
    before = sorted((EXAMPLES / "results").iterdir())
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, "--quick", "--seeds", "3"], capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 3")
    assert sorted((EXAMPLES / "results").iterdir()) == before


def test_grpo_takes_every_seed_from_a_third_to_nine_in_ten():
    found = json.loads((EXAMPLES / "results" / "reinforce_grpo.json").read_text(encoding="utf-8"))
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2, 3, 4]
    for run in found["runs"]:
        accuracy = run["accuracy"]
        assert 0.25 < accuracy["sft"] < 0.45
        assert accuracy["sft_greedy"] < 0.35  # imitation forgets carries even at its most likely
        assert accuracy["grpo"] > 2 * accuracy["sft"]
        assert accuracy["grpo_greedy"] > 3 * accuracy["sft_greedy"]
        assert accuracy["grpo"] >= found["target"]
    reached = [run["seed"] for run in found["runs"] if run["accuracy"]["grpo"] >= found["target"]]
    assert reached == found["seeds_at_target"]


def test_dpo_lowers_both_log_probabilities_and_the_nll_term_raises_the_chosen():
    found = json.loads((EXAMPLES / "results" / "preferences.json").read_text(encoding="utf-8"))
    plain, cured = (
        next(run for run in found["runs"] if (run["nll_weight"] > 0) == with_nll) for with_nll in (False, True)
    )
    assert plain["last"]["logp_chosen"] < plain["first"]["logp_chosen"]
    assert plain["last"]["logp_rejected"] < plain["first"]["logp_rejected"]
    assert cured["last"]["logp_chosen"] > cured["first"]["logp_chosen"]
    for run in (plain, cured):
        assert run["last"]["margin"] > 0


def test_figures_are_small():
    for figure in (EXAMPLES / "results").glob("*.png"):
        assert figure.stat().st_size < 100_000, figure.name
