"""Runs in processes of their own: killed without warning, and two at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")


def run_script(name: str, *arguments: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / name), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_fork
def test_three_kills_leave_no_trace_in_the_curve():
    assert "3 kills: losses and weights equal" in run_script("kill_and_resume.py", "--kills", "3")


@needs_fork
@pytest.mark.slow
def test_ddp_and_fsdp_on_two_processes_lose_what_one_process_loses(tmp_path):
    found = json.loads(run_script("two_processes.py", str(tmp_path)).splitlines()[-1])
    for name, (losses, eval_losses) in found.items():
        expected, expected_eval = found[f"one {'adamw' if 'adamw' in name else 'muon'}"]
        assert len(losses) == 6
        np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(eval_losses, expected_eval, rtol=0, atol=1e-5, err_msg=name)
    difference = np.abs(np.subtract(found["one adamw"][0], found["one muon"][0])).max()
    assert difference > 1e-3  # so 1e-5 would notice an update that is a percent off
