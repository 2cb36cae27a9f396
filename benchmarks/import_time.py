"""Time of `import llmcore` and of its parts beyond `import torch`, each in a fresh interpreter, and what must not be loaded by it.

    python benchmarks/import_time.py [--quick] [--rounds 7]

Left out on purpose: the first import after an installation, which also compiles to bytecode.
"""

import argparse
import os
import statistics
import subprocess
import sys

from _report import ROOT, finish

TARGET_S = 0.2
PARTS = (
    "import llmcore",
    "from llmcore.attention import attention",
    "from llmcore.model import Transformer",
    "from llmcore.tokenizer import BPETokenizer",
    "from llmcore.optim import AdamW, Muon",
    "from llmcore.data import TokenFile, pack_documents",
    "from llmcore.train import Trainer",
)
UNASKED = (
    "triton",
    "numba",
    "matplotlib",
    "plotly",
    "IPython",
    "transformers",
    "tensorboard",
    "torch._dynamo",
    "rich",
    "typer",
)


def measure(statement: str) -> tuple[float, list[str]]:
    """(seconds that the statement takes after torch, modules that it loaded without being asked)."""
    code = (
        "import time, sys, torch; before = set(sys.modules); start = time.perf_counter(); "
        f"{statement}; seconds = time.perf_counter() - start; "
        f"print(seconds, *(name for name in {UNASKED!r} if name in sys.modules and name not in before))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    seconds, *loaded = done.stdout.split()
    return float(seconds), loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="`import llmcore` only, for CI")
    parser.add_argument("--rounds", type=int, help="interpreters per part (default 7, quick 5)")
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.quick else 7)
    rows = []
    for statement in PARTS[:1] if options.quick else PARTS:
        runs = [measure(statement) for _ in range(rounds)]
        rows.append(
            {
                "name": f"{statement}, beyond torch",
                "figure": round(statistics.median(seconds for seconds, _ in runs), 4),
                "peer": None,
                "ratio": None,
                "unit": "s",
                "target": TARGET_S,
                "loaded_unasked": runs[0][1],
            }
        )
    finish("import_time", rows, rounds=rounds, quick=options.quick)


if __name__ == "__main__":
    main()
