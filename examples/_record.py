"""The record that every example writes beside its figure: what was found, and how it was found."""

import importlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def rounded(value: Any, digits: int = 4) -> Any:
    """The value with every float in it rounded, for files that people read."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    return [rounded(part, digits) for part in value] if isinstance(value, (list, tuple)) else value


def write_record(
    path: Path,
    folder: str,
    settings: dict[str, Any],
    found: dict[str, Any],
    seconds: float,
    packages: Sequence[str] = ("torch",),
    **more: Any,
) -> None:
    """Write the file: what was found, and the command (a script of examples/FOLDER), date, settings and versions that it was found with."""
    record = {
        "command": shlex.join(["python", f"examples/{folder}/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **more,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "versions": {
            "python": platform.python_version(),
            **{name: str(importlib.import_module(name).__version__) for name in packages},
        },
        "threads": torch.get_num_threads(),
        "settings": settings,
        **rounded(found),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
