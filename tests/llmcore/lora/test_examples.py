"""The examples run, and what they have left in the repository is whole."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "lora"


@pytest.mark.slow
def test_the_forgetting_example_runs(tmp_path):
    command = [sys.executable, str(FOLDER / "forgetting.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "forgetting.json").read_text())
    assert len(found["runs"]) == 12
    assert (tmp_path / "forgetting.png").stat().st_size < 100_000


@pytest.mark.parametrize("name", ["forgetting", "smollm2"])
def test_results_say_how_they_were_made(name):
    found = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    assert {"command", "seed", "date", "versions", "settings", "runs"} <= set(found)
    assert found["command"].startswith(f"python examples/lora/{name}.py")
    assert (FOLDER / "results" / f"{name}.png").stat().st_size < 100_000


def test_the_real_models_runs_lowered_the_held_out_loss():
    runs = json.loads((FOLDER / "results" / "smollm2.json").read_text())["runs"]
    for run in runs.values():
        assert run["held_out_loss_nats"]["after"] < run["held_out_loss_nats"]["before"] - 0.3
    assert runs["QLoRA"]["weight_bytes"]["frozen"] < 0.35 * runs["LoRA"]["weight_bytes"]["frozen"]
