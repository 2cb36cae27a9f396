"""A second process in which triton is the interpreter: TRITON_INTERPRET must be set before triton is imported, and here it may have been."""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

# Helpers beside the tests, and the benchmarks; processes started from here inherit the path.
HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parents[2] / "benchmarks")]


def _become_interpreter() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ.pop("TRITON_PTXAS_PATH", None)
    import torch
    from triton.runtime.interpreter import InterpretedFunction, _patch_lang

    torch.set_num_threads(1)
    patched = set()

    def call(self, *arguments, **named):
        # The interpreter patches triton.language anew for every call of a function by a kernel, which takes most of its
        # time. The kernel's own start has patched what our functions use; triton's own need it once.
        if self.fn.__module__.startswith("triton") and self.fn.__module__ not in patched:
            patched.add(self.fn.__module__)
            _patch_lang(self.fn)
        return self.rewrite()(*arguments, **named)

    InterpretedFunction.__call__ = call


@pytest.fixture(scope="session")
def interpreter():
    """`interpreter(function, *arguments)` is the function's result in that process."""
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_become_interpreter) as pool:

        def ask(function, *arguments):
            try:
                return pool.submit(function, *arguments).result(timeout=300)
            except Exception as error:
                if "only 0-dimensional arrays" in str(error):
                    pytest.skip("this triton's interpreter cannot loop under this numpy (3.6 needs numpy below 2.4)")
                raise

        yield ask


def pytest_terminal_summary(terminalreporter) -> None:
    """Cases and largest distance from float64 of each group, where this process ran them or was told of them."""
    groups: dict[str, list[float]] = {}
    for report in terminalreporter.stats.get("passed", []):
        properties = dict(getattr(report, "user_properties", ()))
        if "largest" in properties and report.when == "call":
            groups.setdefault(f"{properties['group']}, {properties['dtype']}", []).append(properties["largest"])
    if groups:
        terminalreporter.section("Triton attention kernels against float64")
        for name, largest in groups.items():
            terminalreporter.write_line(f"{name}: {len(largest)} cases, largest relative distance {max(largest):.1e}")
