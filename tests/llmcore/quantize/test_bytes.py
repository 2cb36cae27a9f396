"""Bytes of fine-tuning by method, against the formulas and against what layers hold."""

import math

import pytest
from refused import refused
from torch import nn

from llmcore.accounting import NF4_BITS, finetune_bytes, nf4_bytes
from llmcore.lora import inject
from llmcore.quantize import Nf4Linear, quantize_model


@pytest.mark.parametrize("n_params", [0, 1, 7, 64, 16_384, 16_385, 123_456_789, 10**9 + 7])
@pytest.mark.parametrize("n_trainable", [0, 5, 1000])
def test_each_method_has_its_formula(n_params, n_trainable):
    bits = 4 + 8 / 64 + 32 / (64 * 256)
    assert bits == NF4_BITS
    assert nf4_bytes(n_params) == math.ceil(n_params * bits / 8)
    assert finetune_bytes(n_params, n_trainable, "full") == 16 * n_params
    assert finetune_bytes(n_params, n_trainable, "lora") == 2 * n_params + 16 * n_trainable
    assert finetune_bytes(n_params, n_trainable, "qlora") == math.ceil(n_params * bits / 8) + 16 * n_trainable


def test_a_number_too_large_for_floats_is_exact():
    assert nf4_bytes(8 * 10**18) == -(-8 * 10**18 * 2113 // 4096)


def test_what_there_is_not_is_refused():
    with refused("method must be full, lora or qlora, got 'dora'"):
        finetune_bytes(10, 1, "dora")
    with refused("must be at least 0, got -1 and 1"):
        finetune_bytes(-1, 1, "lora")


def test_a_quantized_models_weights_take_what_is_counted():
    model = nn.Sequential(nn.Linear(256, 512, bias=False), nn.ReLU(), nn.Linear(512, 128, bias=False))
    n_params = sum(parameter.numel() for parameter in model.parameters())
    quantize_model(model, ["0", "2"])
    n_trainable = inject(model, ["0", "2"], 4, 8)
    held = sum(module.weight_bytes for module in model.modules() if isinstance(module, Nf4Linear))
    # Each layer keeps the mean of its scales besides: 4 bytes.
    assert held == nf4_bytes(n_params) + 2 * 4
    assert finetune_bytes(n_params, n_trainable, "qlora") == nf4_bytes(n_params) + 16 * n_trainable
