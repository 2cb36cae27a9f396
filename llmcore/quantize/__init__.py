"""Quantization: int8 by absmax or with a zero point, NF4 with double quantization, frozen layers that store either.

- `int8`: tensors to eight bits and back
- `nf4`: the code book of QLoRA, blocks, packing, double quantization
- `linear`: frozen linear layers whose weights stay packed, forward and backward
- `files`: a quantized model in a folder
- `qlora`: `QLoRALinear`, a 4-bit base with a low-rank update that learns

>>> import torch
>>> from llmcore.quantize import dequantize_nf4, quantize_nf4
>>> codes, absmax = quantize_nf4(torch.tensor([0.5, -2.0, 0.0]))
>>> dequantize_nf4(codes, absmax, (3,)).tolist()
[0.4922246038913727, -2.0, 0.0]

Taught in: 06_lora.
"""

import importlib

_HOME_OF = {
    "Int8Linear": "linear",
    "Nf4Linear": "linear",
    "PackedNf4": "nf4",
    "QLoRALinear": "qlora",
    "QuantizedLinear": "linear",
    "affine_dequantize": "int8",
    "affine_quantize": "int8",
    "dequantize_int8": "int8",
    "dequantize_nf4": "nf4",
    "load_quantized": "files",
    "nf4_codebook": "nf4",
    "pack_codes": "nf4",
    "pack_nf4": "nf4",
    "quantize_int8": "int8",
    "quantize_model": "linear",
    "quantize_nf4": "nf4",
    "save_quantized": "files",
    "unpack_codes": "nf4",
}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
