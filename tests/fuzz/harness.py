"""What must hold of the notebook reader and of the wire format whatever bytes they are given, and atheris to look for bytes for which it does not.

python tests/fuzz/harness.py frame --seconds 60        needs atheris; a crash leaves its input in the folder of --keep
python tests/fuzz/harness.py notebook --replay FILE    one input again, without atheris
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

SLOW_S = 5.0
"""No input of a fuzzer (at most 64 KiB) may take longer, on a busy machine."""


def notebook(data: bytes) -> None:
    """The notebook reader gives sources, or problems in one printable sentence each, and never raises."""
    from grader import intake

    submission = intake.Submission()
    parsed = intake._parse(data, submission.problems)
    if parsed is not None:
        intake._take(parsed, MANIFEST, submission)
    for exercise, source in submission.cells.items():
        assert exercise in MANIFEST.exercises
        assert 0 < len(source) <= intake.MAX_SOURCE_CHARACTERS + 1
        assert source == intake._canonical(source)
        assert "\0" not in source
        source.encode("utf-8")
    assert not set(submission.cells) & set(submission.absent)
    for problem in submission.problems:
        assert problem.sentence.isprintable(), repr(problem.sentence)
        assert len(problem.sentence) < 1500
    assert len(submission.sha256) == 64
    assert (parsed is None) == submission.invalid


def frame(data: bytes) -> None:
    """A frame is refused with ProtocolError, or what it holds can be sent again and arrives the same."""
    from grader import wire

    try:
        message = wire.read(data, CAPS)
    except wire.ProtocolError:
        return
    again = b"".join(wire.encode(message.kind, message.nonce, message.body))
    assert same(wire.read(again).body, message.body), "what was decoded does not survive a second trip"


def ledger(data: bytes) -> None:
    """Whatever a ledger file holds, reading it gives a verdict and the good records before the first bad one."""
    from grader.ledger import _walk

    for item in _walk(data.splitlines(keepends=True), None):
        if isinstance(item, str):
            assert item.startswith("record ")
            return
        assert item[0] is None or type(item[0]) is dict


def same(one: Any, other: Any) -> bool:
    """Equality of decoded values, bit by bit for tensors and with NaN equal to itself."""
    import numpy as np
    import torch

    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        return one.numel() == 0 or bool(
            torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        )
    if isinstance(one, np.ndarray | np.generic):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, float | complex):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one.items(), other.items()))
    return unordered(one) == unordered(other) if isinstance(one, set | frozenset) else one == other


def unordered(value: Any) -> str:
    """`repr`, the same for sets that hold the same, in whatever order they go through their elements."""
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({sorted(map(unordered, value))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(unordered, value))})"
    return repr(value)


def seeds(target: str) -> list[bytes]:
    """Sound inputs to begin with."""
    if target == "notebook":
        return [
            json.dumps(n).encode() for n in (sound_notebook(), {"nbformat": 3, "worksheets": []}, {"cells": []}, [])
        ]
    if target == "ledger":
        return [b'{"hash":"","n":0,"previous":"%s"}\n' % (b"0" * 64), b"{}\n{", b"[]\n"]
    import numpy as np
    import torch

    from grader import wire
    from grader.exercise import Code

    values: list[Any] = [
        {"args": (1, 2.5, None, True, "a", b"b", float("nan")), "kwargs": {"dim": -1}},
        {
            "value": [
                torch.arange(6.0).reshape(2, 3),
                np.ones(2, dtype=np.int8),
                np.float32(1),
                1j,
                {1, 2},
                frozenset({"x"}),
            ]
        },
        {"value": {"d": {(1, b"x"): [2**70, "s" * 200, torch.float16, torch.device("cpu"), wire.Handle(3, "Linear")]}}},
        {"value": Code("def make(n):\n    return n", (3, bytearray(b"x")))},
    ]
    return [b"".join(wire.encode("answer", "0123456789abcdef", value)) for value in values]


def sound_notebook() -> dict[str, Any]:
    cells = [
        {"cell_type": "code", "source": source, "metadata": {"nbgrader": {"grade_id": name}}, "outputs": []}
        for name, source in (
            ("f", "def f(x):\n    return x\n"),
            ("g", ["!ls\n", "def g(x): return x"]),
            ("why", "Because."),
        )
    ]
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def _prepare() -> None:
    global MANIFEST, CAPS
    from grader.intake import Manifest
    from grader.wire import Caps

    MANIFEST = Manifest(assignment="a", exercises={"f": ("f",), "g": ("g", "h")}, manual=("why",))
    CAPS = Caps(header_bytes=1 << 16, total_bytes=1 << 20, buffers=100, nodes=5000, depth=64)


MANIFEST: Any = None
CAPS: Any = None
TARGETS = {"notebook": notebook, "frame": frame, "ledger": ledger}


def run(target: str, data: bytes) -> None:
    """One input. Raises whatever the target should not have raised, and AssertionError when it took too long."""
    if MANIFEST is None:
        _prepare()
    start = time.process_time()
    TARGETS[target](data)
    assert time.process_time() - start < SLOW_S, "it took too long"


def fuzz(target: str, seconds: float, keep: Path, seed: int = 0) -> None:
    """Lets atheris look for `seconds`; does not return. The process ends with a code other than 0 when something was found."""
    import atheris

    with atheris.instrument_imports(include=["grader.intake", "grader.wire", "grader.ledger"]):
        _prepare()
        import grader.intake
        import grader.ledger
        import grader.wire  # noqa: F401
    corpus = keep / f"{target}_corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for n, data in enumerate(seeds(target)):
        (corpus / f"seed_{n}").write_bytes(data)
    options = [f"-max_total_time={max(1, round(seconds))}", "-max_len=65536", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-seed={seed}", "-verbosity=0", "-print_final_stats=1", f"-artifact_prefix={keep}/{target}_"]
    mutate = mutate_frame if target == "frame" else None
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: run(target, data), custom_mutator=mutate)
    atheris.Fuzz()


def mutate_frame(data: bytes, max_size: int, seed: int) -> bytes:
    """A frame whose JSON header was changed and whose lengths still fit, so that the decoder behind them is reached."""
    import atheris

    parts = split(data)
    if parts is None or seed % 8 == 0:
        return atheris.Mutate(data, max_size)
    header, buffers = parts
    if buffers and seed % 3 == 0:
        n = seed % len(buffers)
        buffers[n] = atheris.Mutate(buffers[n] or b"x", 4096)
    else:
        header = atheris.Mutate(header, 16384)
    return join(header, buffers)[:max_size]


def split(data: bytes) -> tuple[bytes, list[bytes]] | None:
    """(header, buffers) of a frame whose lengths are sound, or None."""
    if len(data) < 8:
        return None
    length, count = struct.unpack_from("!II", data)
    if count > 100 or len(data) < 8 + 4 * count:
        return None
    sizes = struct.unpack_from(f"!{count}I", data, 8)
    at = 8 + 4 * count
    if at + length + sum(sizes) != len(data):
        return None
    header, at = data[at : at + length], at + length
    buffers = []
    for size in sizes:
        buffers.append(data[at : at + size])
        at += size
    return header, buffers


def join(header: bytes, buffers: list[bytes]) -> bytes:
    """The frame of a header and its buffers, with lengths that fit."""
    sizes = [len(b) for b in buffers]
    return struct.pack(f"!II{len(sizes)}I", len(header), len(sizes), *sizes) + header + b"".join(buffers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument(
        "--keep", type=Path, default=Path("build/fuzz"), help="folder for the corpus and for what was found"
    )
    parser.add_argument("--seed", type=int, default=0, help="where to begin looking; 0: elsewhere every time")
    parser.add_argument("--replay", type=Path, help="run this one input, without atheris")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if options.replay:
        run(options.target, options.replay.read_bytes())
        return
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))
    fuzz(options.target, options.seconds, options.keep, options.seed)


if __name__ == "__main__":
    main()
