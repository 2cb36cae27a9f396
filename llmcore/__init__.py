"""llmcore: the parts of a language model, each in a file that reads like the lesson which teaches it.

`import llmcore` loads no part; `llmcore.attention` and the others load when they are first used. The package knows no
notebook, grader or course.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = [
    "accounting",
    "align",
    "attention",
    "claims",
    "data",
    "figures",
    "generate",
    "information",
    "layers",
    "lora",
    "model",
    "moe",
    "norms",
    "optim",
    "positions",
    "quantize",
    "text",
    "tokenizer",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its parts are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
