"""What the examples here share: settings from a TOML file, the record of a run, and its figure."""

import json
import platform
import shlex
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a TOML file."""
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def rounded(value: Any, digits: int = 4) -> Any:
    """The value with every float in it rounded, for files that people read."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    return [rounded(part, digits) for part in value] if isinstance(value, (list, tuple)) else value


def write_results(path: Path, settings: dict[str, Any], found: dict[str, Any], seconds: float) -> None:
    """Write the file: what was found, and the command, seed, date and versions that it was found with."""
    import numpy
    import torch

    record = {
        "command": shlex.join(["python", f"examples/lora/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "seed": settings["seed"],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__},
        "threads": torch.get_num_threads(),
        "settings": settings,
        **rounded(found),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def save_figure(path: Path, figure: Any) -> None:
    """Write the picture with few colours, so that it stays small."""
    import io

    from PIL import Image

    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=100)
    picture = Image.open(held).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
