"""Adapters in files: saved and loaded, PEFT's form, GPT-2's fused layer, and what is refused without a trace."""

import json

import pytest
import torch
from refused import refused
from safetensors.torch import load_file, save_file
from torch import nn

from llmcore.lora import (
    LoraConfig,
    adapter_names,
    inject,
    load_adapter,
    lora_layers,
    lora_state_dict,
    merge,
    save_adapter,
    unload,
)
from llmcore.lora.naming import Update, join_updates, shortest_targets, split_update
from llmcore.model import ModelConfig, Transformer, load_pretrained, save_pretrained
from llmcore.quantize import quantize_model

CONFIG = ModelConfig(vocab_size=13, width=12, n_layers=2, n_heads=3, ffn_width=20, context=32, init_std=0.3)
GPT2 = CONFIG.replace(
    position="learned", norm="layer", norm_bias=True, ffn="gelu_tanh", ffn_bias=True, qkv_bias=True, out_bias=True
)
IDS = torch.arange(11)[None]
KINDS = {"lora": {}, "rank-stabilized": {"rank_stabilized": True}, "dora": {"dora": True}}


def make_model(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    return Transformer(config, torch.Generator().manual_seed(seed)).eval()


def make_adapted(config: ModelConfig = CONFIG, targets=("q_proj", "down_proj"), **options) -> Transformer:
    model = make_model(config)
    inject(model, list(targets), 3, 5, generator=torch.Generator().manual_seed(1), **options)
    generator = torch.Generator().manual_seed(2)
    for layer in lora_layers(model).values():
        layer.lora_b.data.normal_(std=0.3, generator=generator)
        if options.get("dora"):
            layer.adapters["default"].magnitude.data.mul_(1 + 0.3 * torch.rand(layer.out_features, generator=generator))
    return model


def snapshot(model: nn.Module) -> dict:
    return {name: (tensor.clone(), tensor.requires_grad) for name, tensor in model.state_dict(keep_vars=True).items()}


def assert_unchanged(model: nn.Module, before: dict) -> None:
    after = snapshot(model)
    assert list(after) == list(before)
    assert all(torch.equal(after[name][0], before[name][0]) and after[name][1] == before[name][1] for name in before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [CONFIG, GPT2, CONFIG.replace(position="alibi")], ids=["llama", "gpt2", "no family"])
def test_a_saved_adapter_gives_the_same_answers_on_a_fresh_base(tmp_path, kind, config):
    targets = ("q_proj", "k_proj", "v_proj", "down_proj")
    model = make_adapted(config, targets, **KINDS[kind])
    save_adapter(model, tmp_path, base_model="some/base")
    again = make_model(config)
    found = load_adapter(again, tmp_path)
    assert torch.equal(again(IDS), model(IDS))
    assert found == LoraConfig(rank=3, alpha=found.alpha, targets=tuple(sorted(targets)), **KINDS[kind])
    assert found.alpha == pytest.approx(5)
    assert not any(p.requires_grad for p in again.parameters())
    load_adapter(again, tmp_path, "learns", trainable=True)
    assert {name for name, p in again.named_parameters() if p.requires_grad} == set(lora_state_dict(again, "learns"))


def test_the_files_are_as_peft_writes_them(tmp_path):
    save_adapter(make_adapted(dropout=0.1, rank_stabilized=True, dora=True), tmp_path, base_model="some/base")
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight" in names
    assert "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector" in names
    assert len(names) == 12
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    expected = {
        "peft_type": "LORA", "r": 3, "lora_alpha": 5, "target_modules": ["down_proj", "q_proj"], "lora_dropout": 0.1,
        "use_rslora": True, "use_dora": True, "rank_pattern": {}, "alpha_pattern": {}, "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "some/base", "fan_in_fan_out": False, "bias": "none",
    }  # fmt: skip
    assert expected.items() <= settings.items()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_chosen_layer_is_named_in_full(tmp_path):
    model = make_adapted(targets=("blocks.1.attention.q_proj",))
    save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    assert shortest_targets({"a.q", "b.q"}, {"a.q": 0, "b.q": 0, "c.v": 0}) == ["q"]
    assert shortest_targets({"a.q"}, {"a.q": 0, "b.q": 0}) == ["a.q"]


def test_layers_of_other_ranks_go_by_patterns(tmp_path):
    model = make_adapted()
    save_adapter(model, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    prefix = "base_model.model.model.layers.1.mlp.down_proj."
    tensors[prefix + "lora_A.weight"] = tensors[prefix + "lora_A.weight"][:2].clone()
    tensors[prefix + "lora_B.weight"] = tensors[prefix + "lora_B.weight"][:, :2].clone()
    save_file(tensors, path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings |= {"rank_pattern": {"layers.1.mlp.down_proj": 2}, "alpha_pattern": {"down_proj": 7}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    again = make_model()
    load_adapter(again, tmp_path)
    adapters = {path: layer.adapters["default"] for path, layer in lora_layers(again).items()}
    assert {path: (one.rank, one.alpha) for path, one in adapters.items()} == {
        "blocks.0.attention.q_proj": (3, 5), "blocks.0.ffn.down_proj": (3, 7),
        "blocks.1.attention.q_proj": (3, 5), "blocks.1.ffn.down_proj": (2, 7),
    }  # fmt: skip
    save_adapter(again, tmp_path / "second")
    third = make_model()
    load_adapter(third, tmp_path / "second")
    assert torch.equal(third(IDS), again(IDS))


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("present", [(True, True, True), (True, False, True), (False, True, False)])
def test_one_update_of_a_fused_layer_equals_those_of_its_parts(present, dora):
    generator = torch.Generator().manual_seed(0)
    sizes = (4, 5, 4)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    parts = [
        Update(draw(2 + i, 6), draw(size, 2 + i), 0.5 * (i + 1), draw(size) if dora else None) if there else None
        for i, (size, there) in enumerate(zip(sizes, present))
    ]
    norms = [draw(size).abs() for size in sizes]
    whole = join_updates(parts, norms)
    product = whole.scale * whole.b @ whole.a
    for block, part in zip(product.split(sizes), parts):
        expected = torch.zeros_like(block) if part is None else part.scale * part.b @ part.a
        torch.testing.assert_close(block, expected)
    for block, piece in zip(product.split(sizes), split_update(whole, list(sizes))):
        got = torch.zeros_like(block) if piece is None else piece.scale * piece.b @ piece.a
        torch.testing.assert_close(got, block)
    if dora:
        assert [row.tolist() for row in whole.magnitude.split(sizes)] == [
            (norm if part is None else part.magnitude).tolist() for part, norm in zip(parts, norms)
        ]


def test_an_adapter_of_the_same_shape_is_overwritten_in_place(tmp_path):
    model = make_adapted()
    save_adapter(model, tmp_path)
    other = make_model()
    inject(other, ["q_proj", "down_proj"], 3, 7)
    held = lora_layers(other)["blocks.0.attention.q_proj"].lora_a
    load_adapter(other, tmp_path)
    assert lora_layers(other)["blocks.0.attention.q_proj"].lora_a is held
    assert torch.equal(other(IDS), model(IDS))
    third = make_model()
    inject(third, ["q_proj"], 3, 5)
    before = snapshot(third)
    with refused("there is an adapter 'default' already, with other layers or ranks"):
        load_adapter(third, tmp_path)
    assert_unchanged(third, before)
    load_adapter(third, tmp_path, "second")
    assert adapter_names(third) == ["default", "second"]
    assert torch.equal(third(IDS), model(IDS))
    with refused("there are the adapters default, second; name the one to save"):
        save_adapter(third, tmp_path / "x")
    with refused("there is no adapter 'third'"):
        save_adapter(third, tmp_path / "x", "third")
    with refused("no adapter to save"):
        save_adapter(make_model(), tmp_path / "x")


def test_an_adapter_of_another_base_is_named_and_leaves_the_model_untouched(tmp_path):
    save_adapter(make_adapted(targets=("q_proj", "gate_proj")), tmp_path)
    for config, message in (
        (CONFIG.replace(n_layers=1), r"layers that this model has not model.layers.1.mlp.gate_proj, model.layers.1.self_attn.q_proj; shapes that differ none"),
        (CONFIG.replace(ffn_width=24), r"has not none; shapes that differ model.layers.0.mlp.gate_proj is of 12 inputs and 20 outputs and should be of 12 and 24"),
        (GPT2, r"is of another base: .*model.layers.0.mlp.gate_proj.*this model has transformer.h.0.attn.c_attn"),
    ):  # fmt: skip
        model = make_model(config)
        before = snapshot(model)
        with refused(message):
            load_adapter(model, tmp_path)
        assert_unchanged(model, before)


def rewrite(folder, change=None, drop=None, rename=None, **settings) -> None:
    """Spoil an adapter's files."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in list(tensors):
        if drop and drop in name:
            del tensors[name]
        if rename and rename[0] in name:
            tensors[name.replace(*rename)] = tensors.pop(name)
    if change:
        change(next(iter(tensors.values())))
    save_file(tensors, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"drop": "layers.1.mlp.down_proj.lora_B"}, "layers without all of a, b model.layers.1.mlp.down_proj"),
        ({"rename": ("lora_A.weight", "lora_embedding_A")}, "tensors that are not understood .*lora_embedding_A"),
        ({"use_dora": True}, "layers without all of a, b, magnitude"),
        ({"r": 4}, r"must be of rank 4 as adapter_config.json says, got A \(3, "),
        ({"change": lambda tensor: tensor.fill_(float("nan"))}, "not finite"),
        ({"peft_type": "IA3"}, "must be of a LoRA adapter, got peft_type 'IA3'"),
        ({"bias": "all"}, "has bias='all', which is not supported here; merge it with PEFT"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save=\['lm_head'\]"),
        ({"init_lora_weights": "pissa_niter_4"}, "has init_lora_weights='pissa_niter_4'"),
        ({"drop": "lora"}, "got 0 tensors"),
    ],
)
def test_damaged_and_unsupported_adapters_are_refused(tmp_path, spoil, message):
    save_adapter(make_adapted(), tmp_path)
    rewrite(tmp_path, **spoil)
    model = make_model()
    before = snapshot(model)
    with refused(message):
        load_adapter(model, tmp_path)
    assert_unchanged(model, before)


def test_missing_and_cut_off_files(tmp_path):
    with refused("found no such folder; fetching an adapter by its name needs the network", FileNotFoundError):
        load_adapter(make_model(), tmp_path / "some/name")
    save_adapter(make_adapted(), tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"cut off")
    with refused("is damaged or no safetensors file"):
        load_adapter(make_model(), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with refused("has no adapter_model.safetensors .there is adapter_model.bin", FileNotFoundError):
        load_adapter(make_model(), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{")
    with refused("is no JSON file"):
        load_adapter(make_model(), tmp_path)


def test_a_whole_model_is_saved_after_unloading_only(tmp_path):
    model = make_adapted()
    with refused("blocks.0.attention.q_proj is a LoraLinear, which this format has no place for; save adapters with"):
        save_pretrained(model, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    merge(model)
    expected = model(IDS)
    save_pretrained(unload(model), tmp_path / "merged")
    assert torch.equal(load_pretrained(tmp_path / "merged")(IDS), expected)
    quantize_model(model)
    with refused("is a Nf4Linear"):
        save_pretrained(model, tmp_path / "x")


def test_nothing_is_loaded_while_adapters_are_merged(tmp_path):
    model = make_adapted()
    save_adapter(model, tmp_path)
    merge(model)
    with pytest.raises(RuntimeError, match="unmerge the model first"):
        load_adapter(model, tmp_path, "other")
    save_adapter(model, tmp_path)
    again = make_model()
    load_adapter(again, tmp_path)
    torch.testing.assert_close(again(IDS), model(IDS), atol=1e-4, rtol=1e-4)
