"""`import llmcore` costs next to nothing and loads nothing that was not asked for."""

import subprocess
import sys

HEAVY = ("torch", "numpy", "numba", "matplotlib", "IPython", "ipywidgets", "typer", "transformers", "triton")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def loaded_after(statement: str) -> set[str]:
    return set(run(f"import sys; {statement}; print(*[m for m in {HEAVY} if m in sys.modules])").split())


def test_import_llmcore_loads_nothing_heavy():
    assert loaded_after("import llmcore") == set()
    assert loaded_after("import llmcore.claims") == set()
    assert loaded_after("import llmcore.figures") == set()
    assert loaded_after("import llmcore.accounting") == set()


def test_attention_loads_torch_and_no_kernel():
    assert loaded_after("import torch, llmcore.attention") & {"matplotlib", "IPython", "numba", "triton"} == (
        loaded_after("import torch") & {"triton"}
    )


def test_import_takes_less_than_a_fifth_of_a_second():
    code = (
        "import time; start = time.perf_counter(); import llmcore, llmcore.claims; print(time.perf_counter() - start)"
    )
    assert min(float(run(code)) for _ in range(3)) < 0.2


def test_parts_load_when_they_are_first_used():
    assert run("import llmcore; print(llmcore.claims.VERDICTS[0], llmcore.__version__)").startswith("confirmed ")
    assert run("from llmcore import accounting; print(accounting.matmul_flops(1, 1, 1))") == "2"
    assert "has no attribute 'atention'" in run(
        "import llmcore\ntry:\n    llmcore.atention\nexcept AttributeError as error:\n    print(error)"
    )
    assert {"attention", "claims"} <= set(run("import llmcore; print(*dir(llmcore))").split())
