"""Frozen quantized layers: products, gradients, what is kept between passes, whole models, files."""

import json

import pytest
import torch
import torch.nn.functional as F
from refused import refused
from torch import nn

from llmcore.accounting import nf4_bytes
from llmcore.lora import inject, lora_layers, merge
from llmcore.model import ModelConfig, Transformer
from llmcore.quantize import (
    Int8Linear,
    Nf4Linear,
    QLoRALinear,
    QuantizedLinear,
    load_quantized,
    quantize_model,
    save_quantized,
)

CONFIG = ModelConfig(vocab_size=13, width=12, n_layers=2, n_heads=3, ffn_width=20, context=16)
KINDS = {"nf4": Nf4Linear.from_linear, "nf4-single": lambda linear: Nf4Linear.from_linear(linear, block=5, double=False), "int8": Int8Linear.from_linear}  # fmt: skip


def make_linear(n_in: int = 7, n_out: int = 5, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(n_in, n_out, bias=bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_layer_multiplies_by_its_dequantized_weight(kind, bias):
    linear = make_linear(bias=bias)
    layer = KINDS[kind](linear)
    x = torch.randn(3, 4, 7)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight, linear.bias))
    assert 0 < (layer.weight - linear.weight).abs().max() < 0.2
    assert not any(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_the_inputs_gradient_goes_through_the_frozen_weight(kind):
    layer = KINDS[kind](make_linear())
    x = torch.randn(6, 7, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.dtype == torch.float64
    upstream = torch.randn_like(y)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    expected = upstream @ layer.weight.double()
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    # The unquantized weight, or the transposed blocks, would be off by the size of a quantization step.
    assert (upstream @ make_linear().weight.double() - expected).abs().max() > 1e-3
    assert torch.autograd.gradcheck(layer, torch.randn(2, 7, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_float_is_kept_between_forward_and_backward(kind):
    layer = KINDS[kind](make_linear(64, 64))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), tensor)[1], lambda tensor: tensor
    ):
        layer(torch.randn(3, 64, requires_grad=True))
    assert sum(tensor.nbytes for tensor in kept) == layer.weight_bytes
    assert layer.weight_bytes < 0.35 * 4 * 64 * 64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_and_autocast_decide_the_dtype(dtype):
    layer = Nf4Linear.from_linear(make_linear())
    x = torch.randn(3, 7)
    assert layer(x.to(dtype)).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert leaf.grad.dtype == torch.float32
    torch.testing.assert_close(leaf.grad, layer.weight.sum(0).expand(3, -1), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_moving_to_another_dtype_leaves_the_weight_as_it_is(kind):
    layer = KINDS[kind](make_linear())
    before = layer.weight
    layer.to(torch.bfloat16)
    assert torch.equal(layer.weight, before)
    assert layer.bias.dtype == torch.bfloat16


def test_bytes_are_what_accounting_says():
    layer = Nf4Linear.from_linear(nn.Linear(256, 512))
    # Sixteen groups of scales fill up evenly here; the scales' mean takes 4 bytes more.
    assert layer.weight_bytes == nf4_bytes(256 * 512) + 4


def test_qlora_learns_its_update_and_leaves_the_base_alone():
    linear = make_linear(20, 12)
    layer = QLoRALinear(linear, r=3, alpha=5, generator=torch.Generator().manual_seed(0))
    x = torch.randn(9, 20)
    assert torch.equal(layer(x), layer.base(x))
    nn.init.normal_(layer.lora_b)
    torch.testing.assert_close(
        layer(x), F.linear(x, layer.base.weight + 5 / 3 * layer.lora_b @ layer.lora_a, linear.bias)
    )
    layer(x).square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {
        "adapters.default.lora_a", "adapters.default.lora_b",
    }  # fmt: skip
    assert (layer.lora_a.dtype, layer.lora_b.dtype) == (torch.float32, torch.float32)


def test_qloras_gradients_are_those_of_a_float_layer_with_the_dequantized_weight():
    layer = QLoRALinear(make_linear(20, 12), r=3, alpha=5)
    nn.init.normal_(layer.lora_b)
    a, b = (tensor.detach().clone().requires_grad_() for tensor in (layer.lora_a, layer.lora_b))
    x = torch.randn(9, 20)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(mine).tanh().sum().backward()
    F.linear(other, layer.base.weight + 5 / 3 * b @ a, layer.bias).tanh().sum().backward()
    for got, expected in ((mine.grad, other.grad), (layer.lora_a.grad, a.grad), (layer.lora_b.grad, b.grad)):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert (got - 1.1 * expected).abs().max() > 1e-3


def test_merging_into_four_bits_requantizes_and_unmerging_restores_every_bit():
    layer = QLoRALinear(make_linear(64, 32), r=3, alpha=5)
    nn.init.normal_(layer.lora_b, std=0.05)
    x = torch.randn(4, 64)
    before, codes = layer(x), layer.base.packed.clone()
    exact, lost = layer.weight, layer.merging_error()
    layer.merge()
    assert not torch.equal(layer.base.packed, codes)
    assert 0.01 < lost < 1
    update = (exact - Nf4Linear.from_linear(make_linear(64, 32)).weight).norm()
    assert ((layer.base.weight - exact).norm() / update).item() == pytest.approx(lost, rel=1e-4)
    layer.unmerge()
    assert torch.equal(layer.base.packed, codes)
    assert torch.equal(layer(x), before)


def test_qlora_quantizes_linear_layers_only():
    with refused("quantizes a torch Linear, got Conv1d"):
        QLoRALinear(nn.Conv1d(1, 1, 1))


def make_model(seed: int = 0, **changes) -> Transformer:
    return Transformer(CONFIG.replace(**changes), torch.Generator().manual_seed(seed)).eval()


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_a_quantized_model_answers_nearly_as_before(method):
    model = make_model(init_std=0.3, tie_embeddings=False)
    ids = torch.arange(11)[None]
    before = model(ids)
    paths = quantize_model(model, method=method)
    assert len(paths) == 14
    assert "head" not in paths
    assert all(isinstance(model.get_submodule(path), QuantizedLinear) for path in paths)
    error = (model(ids) - before).norm() / before.norm()
    assert 0 < error < (0.5 if method == "nf4" else 0.05)


@pytest.mark.parametrize("method", ["nf4", "int8"])
@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_saved_quantized_model_is_built_again_bit_for_bit(tmp_path, method, with_adapter):
    model = make_model(qkv_bias=True)
    quantize_model(model, ["q_proj", "ffn.*"], method)
    ids = torch.arange(11)[None]
    before = model(ids)
    if with_adapter:
        inject(model, ["q_proj", "o_proj"], 2, 4)
        nn.init.normal_(next(iter(lora_layers(model).values())).lora_b)
    save_quantized(model, tmp_path)
    again = load_quantized(tmp_path)
    assert torch.equal(again(ids), before)
    other = make_model(seed=5, qkv_bias=True)
    assert load_quantized(tmp_path, other) is other
    assert torch.equal(other(ids), before)


def test_another_module_is_loaded_into_and_shared_tensors_are_written_once(tmp_path):
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Module()
        model.embed, model.proj, model.lm_head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
        model.lm_head.weight = model.embed.weight
        return model

    model = build(0)
    assert quantize_model(model) == ["proj"]
    save_quantized(model, tmp_path)
    again = load_quantized(tmp_path, build(1))
    assert torch.equal(again.lm_head.weight, model.embed.weight)
    assert again.lm_head.weight is again.embed.weight
    assert torch.equal(again.proj.packed, model.proj.packed)
    with refused("does not say how its model is built"):
        load_quantized(tmp_path)


def test_refusals_leave_the_model_as_it_was(tmp_path):
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with refused("method must be one of nf4, int8, got 'int3'"):
        quantize_model(model, method="int3")
    with refused(r"target 'qproj' matches no linear layer; this model has q_proj \(2\)"):
        quantize_model(model, ["q_proj", "qproj"])
    with refused("no layer of this model is quantized"):
        save_quantized(model, tmp_path)
    broken = make_model()
    broken.blocks[1].ffn.up_proj.weight.data[0, 0] = float("nan")
    with refused("not finite"):
        quantize_model(broken)
    assert not any(isinstance(module, QuantizedLinear) for module in broken.modules())
    quantized = make_model()
    quantize_model(quantized)
    save_quantized(quantized, tmp_path)
    with refused(r"another architecture: .*blocks.1"):
        load_quantized(tmp_path, make_model(n_layers=1))
    with refused(r"is \(24, 12\) and should be|Linear\(12, 20\)"):
        load_quantized(tmp_path, make_model(ffn_width=24))
    with refused("no such|found no quantized.json", FileNotFoundError):
        load_quantized(tmp_path / "none")
    layout = json.loads((tmp_path / "quantized.json").read_text())
    (tmp_path / "quantized.json").write_text(json.dumps(layout | {"format": 9}))
    with refused("has format 9, this version reads 1"):
        load_quantized(tmp_path)
    (tmp_path / "quantized.safetensors").write_bytes(b"cut off")
    with refused("are damaged"):
        load_quantized(tmp_path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    inject(quantized, ["q_proj"], 2, 4)
    merge(quantized)
    with refused("an adapter is merged into"):
        save_quantized(quantized, tmp_path)
