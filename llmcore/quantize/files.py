"""A quantized model in a folder: quantized.json says which layers are stored how, quantized.safetensors holds the tensors.

The base alone is saved; adapters on it are `llmcore.lora.save_adapter`'s to save.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmcore._targets import replace_modules
from llmcore.quantize.linear import METHODS, QuantizedLinear

LAYOUT_FILE, TENSOR_FILE = "quantized.json", "quantized.safetensors"
FORMAT = 1
MAX_NAMES_SHOWN = 6


def save_quantized(model: nn.Module, folder: str | Path) -> None:
    """Write a model with quantized layers; a `Transformer`'s config goes along, so that `load_quantized` can build it.

    Tensors that are one and the same are written once. Adapters are left out.

    Raises: ValueError when no layer is quantized.
    """
    from llmcore.lora.model import lora_layers

    carriers = lora_layers(model)
    layers = {
        _plain(name, carriers): layer for name, layer in model.named_modules() if isinstance(layer, QuantizedLinear)
    }
    if not layers:
        raise ValueError("no layer of this model is quantized; call quantize_model first, or use save_pretrained")
    merged = [path for path, layer in carriers.items() if layer.merged is not None]
    if merged:
        raise ValueError(
            f"an adapter is merged into {merged[0]} and others; unload the model to keep it so, or unmerge it"
        )
    config = getattr(model, "config", None)
    layout = {
        "format": FORMAT,
        "layers": {path: _layout_of(layer) for path, layer in layers.items()},
        "model_config": config.to_dict() if type(model).__name__ == "Transformer" else None,
    }
    tensors, seen = {}, set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        carrier = next((path for path in carriers if name.startswith(f"{path}.adapters.")), None)
        if carrier is None and id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[_plain(name, carriers)] = tensor.detach().to("cpu").contiguous()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / f"{TENSOR_FILE}.partial", metadata={"format": "pt"})
    (folder / f"{LAYOUT_FILE}.partial").write_text(json.dumps(layout, indent=1) + "\n", encoding="utf-8")
    for name in (TENSOR_FILE, LAYOUT_FILE):
        (folder / f"{name}.partial").replace(folder / name)


def _plain(name: str, carriers: dict[str, Any]) -> str:
    """The name without the wrapper that carries adapters."""
    for path in carriers:
        if name == f"{path}.base" or name.startswith(f"{path}.base."):
            return path + name.removeprefix(f"{path}.base")
    return name


def _layout_of(layer: QuantizedLinear) -> dict[str, Any]:
    return {
        "method": layer.method,
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": layer.bias is not None,
        "options": layer.options(),
    }


def load_quantized(folder: str | Path, model: nn.Module | None = None) -> nn.Module:
    """The saved model, in eval mode: built from its config, or, where it is no `Transformer`, put into `model`, in place.

    `model` is one as it was before it was quantized; its layers are swapped and its tensors overwritten.

    Raises: FileNotFoundError when the files are not there; ValueError, `model` untouched, for a damaged file, a missing
        model, or one of another architecture (naming tensors that are missing, unexpected, or of another shape).
    """
    folder = Path(folder)
    layout, tensors = _read(folder)
    if model is None:
        if layout["model_config"] is None:
            raise ValueError(
                f"{folder} does not say how its model is built; pass one as it was before it was quantized"
            )
        from llmcore.model.config import ModelConfig
        from llmcore.model.transformer import Transformer

        with torch.device("meta"):
            model = Transformer(ModelConfig.from_dict(layout["model_config"]))
        dtype = next(tensor.dtype for name, tensor in tensors.items() if name == "embedding.weight")
        model = model.to_empty(device="cpu").to(dtype)
    layers = {path: _empty_layer(spec) for path, spec in layout["layers"].items()}
    _check(folder, model, layers, tensors)
    replace_modules(model, {id(model.get_submodule(path)): layer for path, layer in layers.items()})
    device = next(model.parameters()).device
    model.load_state_dict(tensors, strict=False)
    return model.to(device).eval()


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    missing = [name for name in (LAYOUT_FILE, TENSOR_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} must hold {LAYOUT_FILE} and {TENSOR_FILE}, found no {missing[0]}")
    try:
        layout = json.loads((folder / LAYOUT_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSOR_FILE)
    except (ValueError, SafetensorError) as error:
        raise ValueError(f"the files in {folder} are damaged ({error}); copy them again") from None
    if layout.get("format") != FORMAT:
        raise ValueError(f"{folder / LAYOUT_FILE} has format {layout.get('format')}, this version reads {FORMAT}")
    return layout, tensors


def _empty_layer(spec: dict[str, Any]) -> QuantizedLinear:
    bias = torch.zeros(spec["out_features"]) if spec["bias"] else None
    return METHODS[spec["method"]](spec["in_features"], spec["out_features"], bias, **spec["options"])


def _check(folder: Path, model: nn.Module, layers: dict[str, QuantizedLinear], tensors: dict[str, Tensor]) -> None:
    """Raise ValueError unless the model, its layers swapped, has exactly these tensors."""
    own: dict[str, torch.Size] = {}
    owner: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not any(name.startswith(f"{path}.") for path in layers) and id(tensor) not in owner:
            own[name] = tensor.shape
            owner[id(tensor)] = name
    for path, layer in layers.items():
        own |= {f"{path}.{name}": tensor.shape for name, tensor in layer.state_dict().items()}
    paths = {name for name, _ in model.named_modules()}
    missing = sorted(set(own) - set(tensors)) + sorted(set(layers) - paths)
    unexpected = sorted(set(tensors) - set(own))
    differing = [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(shape)}"
        for name, shape in own.items()
        if name in tensors and tensors[name].shape != shape
    ]
    for path, layer in layers.items():
        target = model.get_submodule(path) if path in paths else None
        if target is not None and (
            not isinstance(target, nn.Linear)
            or (target.in_features, target.out_features) != (layer.in_features, layer.out_features)
        ):
            differing.append(f"{path} is {target} and should be Linear({layer.in_features}, {layer.out_features})")
    if missing or unexpected or differing:
        raise ValueError(
            f"the model in {folder} is of another architecture: missing {_shown(missing)}; unexpected {_shown(unexpected)}; "
            f"different {_shown(differing)}; pass the model it was made from, before it was quantized"
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return (", ".join(names[:MAX_NAMES_SHOWN]) or "none") + more
