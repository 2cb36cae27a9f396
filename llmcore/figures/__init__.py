"""The lessons' figures: functions of plain arrays that return a Matplotlib figure or HTML, and thin widgets around them.

`base` holds the style, still pictures and interactive panels; each chapter has a module with its own figures. Left out on
purpose: any drawing library beside Matplotlib, and characters that its fonts lack (those are shown as HTML).
"""

import importlib
from typing import Any

_BASE = (
    "BLACK",
    "BLUE",
    "CYCLE",
    "GRAY",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "SKY",
    "VERMILION",
    "YELLOW",
    "Panel",
    "Steps",
    "interactive",
    "interactive_html",
    "new_figure",
    "render_png",
    "show",
    "show_html",
    "use_style",
)

__all__ = list(_BASE)


def __getattr__(name: str) -> Any:
    if name in _BASE:
        return getattr(importlib.import_module(f"{__name__}.base"), name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module {__name__!r} has no attribute or chapter module {name!r}") from None


def __dir__() -> list[str]:
    return sorted([*globals(), *_BASE])
