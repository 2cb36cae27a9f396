"""What the examples here share: settings from a TOML file, the record of a run, and its figure."""

import sys
import tomllib
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _record import write_record

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings of a TOML file."""
    return tomllib.loads(Path(path).read_text(encoding="utf-8"))


def write_results(path: Path, settings: dict[str, Any], found: dict[str, Any], seconds: float) -> None:
    """Write the file: what was found, and the command, seed, date and versions that it was found with."""
    write_record(path, "lora", settings, found, seconds, ("torch", "numpy"), seed=settings["seed"])


def save_figure(path: Path, figure: Any) -> None:
    """Write the picture with few colours, so that it stays small."""
    import io

    from PIL import Image

    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=100)
    picture = Image.open(held).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, optimize=True)
