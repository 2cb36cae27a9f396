"""GGUF files, read by transformers (where it and the package gguf are installed) and taken over as a safetensors folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def as_folder(path: Path) -> Iterator[Path]:
    """A folder, while the context lasts, with the file's config.json and its weights, dequantized to float32.

    Raises: FileNotFoundError when the file is not there; ValueError when a package that reads it is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a local GGUF file, found no such file; fetching one needs the network")
    try:
        import accelerate  # noqa: F401  (transformers asks for both)
        import gguf  # noqa: F401
        from transformers import AutoModelForCausalLM
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reading {path.name} needs the package {error.name}, which is not installed: pip install transformers accelerate gguf, "
            "or convert the file to a safetensors folder"
        ) from None
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    # Its tensors are float32 by this time, but it is still marked as quantized, which would forbid to save it.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        yield Path(folder)
