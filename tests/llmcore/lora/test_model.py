"""Adapters of whole models: which layers, what learns, switching, merging, leaving; and refusals that change nothing."""

import pytest
import torch
from refused import refused
from torch import nn

from llmcore.generate import generate
from llmcore.lora import (
    LoraConfig,
    LoraLinear,
    active_adapters,
    adapter_names,
    disabled,
    inject,
    lora_layers,
    lora_parameter_groups,
    lora_state_dict,
    merge,
    merging_errors,
    remove_adapter,
    set_adapter,
    unload,
    unmerge,
)
from llmcore.model import ModelConfig, Transformer
from llmcore.optim import AdamW
from llmcore.quantize import quantize_model

CONFIG = ModelConfig(vocab_size=13, width=12, n_layers=2, n_heads=3, ffn_width=20, context=32, init_std=0.3)
LATENT = {
    "head_dim": 6, "latent": {"kv_rank": 8, "q_rank": 6, "nope_dim": 4, "rope_dim": 2, "value_dim": 4},
}  # fmt: skip
IDS = torch.arange(11)[None]


def make_model(seed: int = 0, **changes) -> Transformer:
    return Transformer(ModelConfig.from_dict(CONFIG.to_dict() | changes), torch.Generator().manual_seed(seed)).eval()


def leave_the_start(model: nn.Module, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in lora_layers(model).values():
        for adapter in layer.adapters.values():
            adapter.lora_b.data.normal_(std=0.3, generator=generator)


class Traps(nn.Module):
    """Names that look alike, nesting, a shared module, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.q_proj = nn.Linear(6, 6)
        self.kq_proj = nn.Linear(6, 6)
        self.q_proj_norm = nn.LayerNorm(6)
        self.inner = nn.ModuleDict(
            {"q_proj": nn.ModuleList([nn.Linear(6, 6)]), "deep": nn.ModuleDict({"q_proj": nn.Linear(6, 6)})}
        )
        self.shared = self.inner["deep"]["q_proj"]
        self.lm_head = nn.Linear(6, 9, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids):
        x = self.kq_proj(self.q_proj(self.embed(ids)))
        return self.lm_head(self.shared(self.inner["deep"]["q_proj"](self.inner["q_proj"][0](x))))


def test_a_name_means_the_last_part_of_a_path_and_nothing_else():
    model = Traps()
    n_trainable = inject(model, ["q_proj"], 2, 4)
    assert list(lora_layers(model)) == ["q_proj", "inner.deep.q_proj"]
    assert n_trainable == 2 * (2 * 6 + 6 * 2) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.shared is model.inner["deep"]["q_proj"], "a layer that stands twice has one adapter"
    assert model.lm_head.weight is model.embed.weight
    assert {name for name, p in model.named_parameters() if p.requires_grad} == set(lora_state_dict(model))


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["blocks.1.attention.q_proj"], ["blocks.1.attention.q_proj"]),
        (["ffn.*"], [f"blocks.{i}.ffn.{part}_proj" for i in (0, 1) for part in ("gate", "up", "down")]),
        (["blocks.[0].*.?_proj"], [f"blocks.0.attention.{part}_proj" for part in "qkvo"]),
        ("re:blocks\\.1\\.attention\\..*", [f"blocks.1.attention.{part}_proj" for part in "qkvo"]),
        (["head", "o_proj"], ["blocks.0.attention.o_proj", "blocks.1.attention.o_proj", "head"]),
    ],
)
def test_patterns(targets, expected):
    model = make_model(tie_embeddings=False)
    inject(model, targets, 2, 4)
    assert sorted(lora_layers(model)) == sorted(expected)


def test_all_linear_leaves_the_head_and_tied_layers_alone():
    model = make_model(tie_embeddings=False)
    inject(model, "all-linear", 2, 4)
    assert len(lora_layers(model)) == 14
    traps = Traps()
    inject(traps, "all-linear", 2, 4)
    assert "lm_head" not in lora_layers(traps)
    traps = Traps()
    traps.output = traps.lm_head
    inject(traps, "all-linear", 2, 4)
    assert not isinstance(traps.output, LoraLinear)


def test_refusals_name_the_mistake_and_leave_the_model_untouched():
    model = make_model(tie_embeddings=False)
    before = {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    with refused(
        r"target 'c_attn' matches no linear layer; this model has q_proj \(2\), k_proj \(2\), .*'blocks.0.attention.q_proj'"
    ):
        inject(model, ["q_proj", "c_attn"], 2, 4)
    with refused("targets must name at least one layer"):
        inject(model, [], 2, 4)
    with refused("blocks.0.attention.q_proj: rank must be at most 12 for a layer of 12 inputs and 12 outputs, got 13"):
        inject(model, ["gate_proj", "q_proj"], 13, 4)
    with refused("rank must be a whole number of at least 1, got 0"):
        inject(model, ["q_proj"], 0, 4)
    with refused("must be a word without dots, got 'a.b'"):
        inject(model, ["q_proj"], 2, 4, adapter="a.b")
    with refused("lm_head shares its weight with embed; leave it out"):
        inject(Traps(), ["q_proj", "lm_head"], 2, 4)
    with refused("the model itself is the layer"):
        inject(nn.Linear(4, 3), "re:.*", 2, 4)
    with refused("this model has no linear layer"):
        inject(nn.Sequential(nn.ReLU()), ["q_proj"], 2, 4)
    for refuse in (merge, unmerge, unload, merging_errors, lora_state_dict):
        with refused("carries no adapter"):
            refuse(model)
    assert before == {name: (id(p), p.requires_grad) for name, p in model.named_parameters()}
    assert not lora_layers(model)


def test_a_config_says_all_and_options_change_it():
    model = make_model()
    inject(model, LoraConfig(rank=3, alpha=6, targets=("up_proj",), dora=True), alpha=9.0)
    layer = lora_layers(model)["blocks.0.ffn.up_proj"]
    assert (layer.adapters["default"].rank, layer.adapters["default"].alpha, layer.adapters["default"].dora) == (
        3,
        9.0,
        True,
    )
    config = LoraConfig(rank=3, targets=["a"], rank_stabilized=True)
    assert LoraConfig.from_dict(config.to_dict()) == config
    with refused("no LoRA setting 'rnak'; there are rank, alpha"):
        LoraConfig.from_dict({"rnak": 3})


def train_a_step(model: nn.Module) -> None:
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    model(IDS).logsumexp(-1).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_only_the_active_adapter_learns():
    model = make_model()
    inject(model, ["q_proj"], 2, 4, adapter="one")
    leave_the_start(model)
    inject(model, ["q_proj", "up_proj"], 3, 4, adapter="two")
    assert adapter_names(model) == ["one", "two"]
    assert active_adapters(model) == ["two"]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_a_step(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in lora_state_dict(model, "two") if name.endswith("lora_b")}
    set_adapter(model, "one")
    train_a_step(model)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert set(lora_state_dict(model, "one")) < changed
    set_adapter(model, "one", trainable=False)
    assert not any(p.requires_grad for p in model.parameters())


def test_switching_and_disabling_give_back_each_models_own_answers():
    model = make_model()
    answers = {"base": model(IDS)}
    for name in ("one", "two"):
        inject(model, ["q_proj", "v_proj"], 2, 4, adapter=name, generator=torch.Generator().manual_seed(len(answers)))
        for layer in lora_layers(model).values():
            layer.adapters[name].lora_b.data.normal_(generator=torch.Generator().manual_seed(len(answers)))
        answers[name] = model(IDS)
    set_adapter(model, "one")
    assert torch.equal(model(IDS), answers["one"])
    assert not torch.allclose(answers["one"], answers["two"])
    with disabled(model):
        assert torch.equal(model(IDS), answers["base"])
        with pytest.raises(KeyError), disabled(model):
            raise KeyError
    assert torch.equal(model(IDS), answers["one"])
    set_adapter(model)
    assert torch.equal(model(IDS), answers["base"])
    set_adapter(model, "one", "two")
    both = model(IDS)
    merge(model)
    torch.testing.assert_close(model(IDS), both)
    unmerge(model)
    remove_adapter(model, "two")
    assert active_adapters(model) == ["one"]
    torch.testing.assert_close(model(IDS), answers["one"])
    remove_adapter(model, "one")
    assert not lora_layers(model)
    assert torch.allclose(model(IDS), answers["base"], atol=1e-5)
    with refused("there is no adapter 'three'; there are none"):
        set_adapter(model, "three")


@pytest.mark.parametrize("dora", [False, True])
def test_a_merged_model_answers_the_same_and_can_be_unloaded(dora):
    model = make_model()
    names = list(model.state_dict())
    inject(model, "all-linear", 3, 5, dora=dora)
    leave_the_start(model)
    expected = model(IDS)
    assert max(merging_errors(model).values()) < 1e-5
    before = {path: layer.base.weight.clone() for path, layer in lora_layers(model).items()}
    merge(model)
    torch.testing.assert_close(model(IDS), expected, atol=2e-5, rtol=2e-5)
    for refuse in (merge, merging_errors):
        with pytest.raises(RuntimeError, match=r"merged into 14 layers, such as blocks.0.attention.q_proj; unmerge"):
            refuse(model)
    with pytest.raises(RuntimeError, match="merged"), disabled(model):
        pass
    with pytest.raises(RuntimeError, match="merged"):
        inject(model, ["q_proj"], 2, 4, adapter="other")
    with pytest.raises(RuntimeError, match="merged"):
        set_adapter(model)
    unmerge(model)
    for path, weight in before.items():
        torch.testing.assert_close(lora_layers(model)[path].base.weight, weight, atol=1e-6, rtol=1e-6)
    with pytest.raises(RuntimeError, match="14 layers are not merged"):
        unmerge(model)
    merge(model)
    unload(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(IDS), expected, atol=2e-5, rtol=2e-5)


def test_a_merge_that_fails_changes_nothing():
    model = make_model()
    inject(model, "all-linear", 3, 5)
    leave_the_start(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    last = list(lora_layers(model).values())[-1]
    last.lora_a.data[0, 0] = before_value = float("nan")
    with refused("blocks.1.ffn.down_proj is not finite; nothing was merged"):
        merge(model)
    last.lora_a.data.fill_(3e38)
    last.lora_b.data.fill_(3e38)
    with refused("not finite, so it was not merged"):
        merge(model)
    assert before_value != before_value
    assert all(layer.merged is None for layer in lora_layers(model).values())
    for name, tensor in model.state_dict().items():
        if "base" in name:
            torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("changes", [{}, LATENT, {"tie_embeddings": False}], ids=["tied", "latent attention", "untied"])
def test_decoding_with_a_cache_sees_the_adapters(changes):
    """Latent attention and the head read a layer's weight instead of calling it."""
    model = make_model(**changes)
    targets = ["*_proj", "head"] if "tie_embeddings" in changes else ["*_proj"]
    inject(model, targets, 2, 8)
    leave_the_start(model)
    with torch.no_grad():
        expected = model(IDS)
        cache = model.make_cache()
        got = torch.cat([model(IDS[:, start : start + 1], cache=cache) for start in range(11)], dim=1)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        with disabled(model):
            assert (model(IDS) - expected).abs().max() > 1e-2
    ids = generate(model, IDS[:, :3], 4, temperature=0.0)
    merge(model)
    assert torch.equal(ids, generate(unload(model), IDS[:, :3], 4, temperature=0.0))


def test_adapters_on_a_quantized_model():
    model = make_model()
    quantize_model(model)
    base = model(IDS)
    inject(model, "all-linear", 2, 4)
    assert torch.equal(model(IDS), base)
    leave_the_start(model)
    adapted = model(IDS)
    merge(model)
    unmerge(model)
    assert torch.equal(model(IDS), adapted)
    assert 0 < max(merging_errors(model).values()) < 1
    train_a_step(model)
    unload(model)
    assert torch.equal(model(IDS), base)


def test_lora_plus_groups():
    model = make_model()
    inject(model, ["q_proj"], 2, 4, dora=True)
    groups = lora_parameter_groups(model, 1e-3, ratio=8, weight_decay=0.1)
    assert [(group["lr"], group["weight_decay"], len(group["params"])) for group in groups] == [
        (1e-3, 0.1, 2), (8e-3, 0.1, 2), (1e-3, 0.0, 2),
    ]  # fmt: skip
    assert {id(p) for group in groups for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    layer = lora_layers(model)["blocks.0.attention.q_proj"]
    assert any(p is layer.lora_b for p in groups[1]["params"])
    optimizer = AdamW(groups, weight_decay=0.0)
    before = layer.lora_a.clone(), layer.lora_b.clone()
    leave_the_start(model)
    layer.lora_b.data.copy_(before[1] + 0.1)
    model(IDS).logsumexp(-1).sum().backward()
    start = layer.lora_b.detach().clone()
    optimizer.step()
    # Adam's first step is lr, whatever the gradient.
    torch.testing.assert_close((layer.lora_b - start).abs().median(), torch.tensor(8e-3), rtol=0.1, atol=0)
    with refused("ratio must be positive"):
        lora_parameter_groups(model, 1e-3, ratio=0)
    with refused("no trainable adapter"):
        lora_parameter_groups(make_model(), 1e-3)


def test_torchs_own_attention_reads_the_adapted_weight():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(12, 3, batch_first=True)
    x = torch.randn(2, 5, 12)
    inject(attention, ["out_proj"], 2, 4)
    leave_the_start(attention)
    expected = attention(x, x, x)[0]
    with disabled(attention):
        assert not torch.allclose(attention(x, x, x)[0], expected)
    merge(attention)
    torch.testing.assert_close(attention(x, x, x)[0], expected)
