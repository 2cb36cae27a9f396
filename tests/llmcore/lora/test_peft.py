"""Against peft, both directions: what either saves, the other loads with the same logits; gradients too."""

import pytest
import torch

from llmcore.lora import inject, load_adapter, lora_layers, merge, save_adapter
from llmcore.model import load_pretrained

transformers = pytest.importorskip("transformers", reason="peft adapts its models")
peft = pytest.importorskip("peft", reason="peft is the peer of this file")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.filterwarnings("ignore:fan_in_fan_out"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# float32 on both sides; a wrong scale, order of blocks or magnitude is off by more than 1e-2 on these models.
TOLERANCE = 1e-4

LLAMA = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
BASES = {
    "llama": ("llama", LLAMA),
    "qwen2": ("qwen2", LLAMA),
    "gpt2": (
        "gpt2",
        {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 2, "n_head": 6, "initializer_range": 0.2,
         "bos_token_id": None, "eos_token_id": None},
    ),
}  # fmt: skip
LLAMA_TARGETS = (["q_proj", "v_proj", "down_proj"], ["q_proj", "v_proj", "down_proj"])
CASES = {
    "llama": ("llama", *LLAMA_TARGETS),
    "llama, all": ("llama", ["*_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    "llama, one layer": ("llama", ["blocks.1.ffn.up_proj"], ["model.layers.1.mlp.up_proj"]),
    "qwen2": ("qwen2", *LLAMA_TARGETS),
    "gpt2": ("gpt2", ["q_proj", "k_proj", "v_proj", "up_proj"], ["c_attn", "c_fc"]),
    "gpt2, keys alone": ("gpt2", ["k_proj"], ["c_attn"]),
}
KINDS = {
    "lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}, "both": {"use_rslora": True, "use_dora": True},
}  # fmt: skip
OURS = {"use_rslora": "rank_stabilized", "use_dora": "dora"}
IDS = torch.randint(0, 97, (2, 17), generator=torch.Generator().manual_seed(0))


def their_base(base: str):
    model_type, options = BASES[base]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **options)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {base: tmp_path_factory.mktemp(base) for base in BASES}
    for base, folder in made.items():
        their_base(base).save_pretrained(folder)
    return made


def our_adapted(folder, targets, kind, seed: int = 1):
    model = load_pretrained(folder)
    options = {OURS[name]: value for name, value in KINDS[kind].items()}
    inject(model, targets, 4, 7, generator=torch.Generator().manual_seed(seed), **options)
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in lora_layers(model).values():
        layer.lora_b.data.normal_(std=0.3, generator=generator)
        adapter = layer.adapters["default"]
        if adapter.dora:
            adapter.magnitude.data.mul_(1 + 0.3 * torch.rand(layer.out_features, generator=generator))
    return model


def their_adapted(base, targets, kind):
    config = peft.LoraConfig(r=4, lora_alpha=7, target_modules=targets, init_lora_weights=False, **KINDS[kind])
    return peft.get_peft_model(their_base(base), config).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_peft_loads_what_we_save(folders, tmp_path, case, kind):
    base, targets, _ = CASES[case]
    ours = our_adapted(folders[base], targets, kind)
    plain = load_pretrained(folders[base])(IDS)
    save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(their_base(base), tmp_path).eval()
    expected = theirs(IDS).logits
    assert (expected - plain).abs().max() > 0.5, "an adapter that does nothing would agree with anything"
    torch.testing.assert_close(ours(IDS), expected, atol=TOLERANCE, rtol=TOLERANCE)
    merge(ours)
    torch.testing.assert_close(ours(IDS), expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [case for case in CASES if case != "gpt2, keys alone"])
@torch.no_grad()
def test_we_load_what_peft_saves(folders, tmp_path, case, kind):
    base, _, targets = CASES[case]
    theirs = their_adapted(base, targets, kind)
    theirs.save_pretrained(tmp_path)
    expected = theirs(IDS).logits
    for ours, answer in (
        (load_pretrained(folders[base]), lambda m: m(IDS)),
        (their_base(base), lambda m: m(IDS).logits),
    ):
        load_adapter(ours, tmp_path)
        torch.testing.assert_close(answer(ours), expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_pefts(folders, tmp_path, kind):
    base, _, targets = CASES["llama"]
    theirs = their_adapted(base, targets, kind)
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(folders[base])
    load_adapter(ours, tmp_path, trainable=True)
    ours(IDS).logsumexp(-1).sum().backward()
    theirs(IDS).logits.logsumexp(-1).sum().backward()
    checked = 0
    for path, module in theirs.base_model.model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        layer = next(
            layer
            for name, layer in lora_layers(ours).items()
            if name.split(".")[1] == path.split(".")[2] and name.endswith(path.rpartition(".")[2])
        )
        pairs = [(layer.lora_a, module.lora_A["default"].weight), (layer.lora_b, module.lora_B["default"].weight)]
        if "use_dora" in KINDS[kind]:
            pairs.append((layer.adapters["default"].magnitude, module.lora_magnitude_vector["default"].weight))
        for mine, other in pairs:
            size = other.grad.abs().max().item()
            torch.testing.assert_close(mine.grad, other.grad, atol=TOLERANCE * size, rtol=TOLERANCE)
            assert (1.05 * mine.grad - other.grad).abs().max() > 10 * TOLERANCE * size
            checked += 1
    assert checked == 6 * (3 if "use_dora" in KINDS[kind] else 2)


@pytest.mark.parametrize("slip", ["scale", "a block", "magnitude"])
@torch.no_grad()
def test_that_tolerance_catches_a_slip(folders, tmp_path, slip):
    base, _, targets = CASES["llama"]
    theirs = their_adapted(base, targets, "dora")
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(folders[base])
    load_adapter(ours, tmp_path)
    adapter = lora_layers(ours)["blocks.1.attention.q_proj"].adapters["default"]
    if slip == "scale":
        adapter.rank_stabilized = True
    elif slip == "a block":
        adapter.lora_b.copy_(adapter.lora_b.roll(8, dims=0))
    else:
        adapter.magnitude.mul_(1.01)
    assert (ours(IDS) - theirs(IDS).logits).abs().max() > 10 * TOLERANCE


@torch.no_grad()
def test_patterns_of_ranks_and_alphas_are_read_as_peft_reads_them(folders, tmp_path):
    config = peft.LoraConfig(
        r=4, lora_alpha=7, target_modules=["q_proj", "down_proj"], init_lora_weights=False,
        rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 5}, alpha_pattern={"model.layers.0.*": 3},
    )  # fmt: skip
    theirs = peft.get_peft_model(their_base("llama"), config).eval()
    theirs.save_pretrained(tmp_path)
    ours = load_pretrained(folders["llama"])
    load_adapter(ours, tmp_path)
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_an_adapter_of_transformers_own_gpt2_and_its_conv1d_goes_both_ways(tmp_path):
    ours = their_base("gpt2")
    inject(ours, ["c_attn", "mlp.c_proj"], 3, 5, dora=True)
    for layer in lora_layers(ours).values():
        layer.lora_b.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    save_adapter(ours, tmp_path)
    theirs = peft.PeftModel.from_pretrained(their_base("gpt2"), tmp_path).eval()
    expected = theirs(IDS).logits
    torch.testing.assert_close(ours(IDS).logits, expected, atol=TOLERANCE, rtol=TOLERANCE)
    merge(ours)
    torch.testing.assert_close(ours(IDS).logits, expected, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_the_files_of_another_kind_of_adapter_are_refused(folders, tmp_path):
    config = peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    peft.get_peft_model(their_base("llama"), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got peft_type 'IA3'"):
        load_adapter(load_pretrained(folders["llama"]), tmp_path)
