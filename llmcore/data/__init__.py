"""Training data: token files, batches, packing of documents, streams of text, and synthetic worlds.

- `token_file`: ids on disk, memory-mapped; text files to token files in parallel
- `batches`: random windows, and the sources that the trainer draws from
- `packing`: many short documents in few rows, with masks between them
- `bigram`: the loss that counting pairs gives, to compare with
- `stream`: batches straight from text files, resumable at any batch
- `synthetic`: arithmetic, nested grammars, biographies, stories and retry data under a seed
"""

import importlib

_HOME_OF = {
    "Batch": "batches",
    "BatchSource": "batches",
    "PackedSource": "batches",
    "ShuffledSource": "batches",
    "WindowSource": "batches",
    "get_batch": "batches",
    "bigram_loss": "bigram",
    "PackedRows": "packing",
    "document_starts": "packing",
    "pack_documents": "packing",
    "plan_packing": "packing",
    "TextStream": "stream",
    "TokenFile": "token_file",
    "tokenize_files": "token_file",
    "write_tokens": "token_file",
}

__all__ = [*_HOME_OF, "synthetic"]


def __getattr__(name: str) -> object:
    if name == "synthetic":
        return importlib.import_module(f"{__name__}.synthetic")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
