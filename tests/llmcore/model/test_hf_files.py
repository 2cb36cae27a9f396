"""Checkpoint folders without any peer: errors, shards, and odd but legal files."""

import json

import pytest
import torch
from refused import refused
from safetensors.torch import load_file, save_file
from transformer_oracle import CONFIGS, config

from llmcore.model import PRESETS, ModelConfig, Transformer, load_pretrained, save_pretrained
from llmcore.model.hf import config_from_hf, config_to_hf, module_path


def small(**options) -> Transformer:
    return Transformer(config(**({"n_layers": 2} | options)), torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def saved(tmp_path):
    model = small()
    save_pretrained(model, tmp_path)
    return model, tmp_path


def edit(folder, change):
    """Rewrite the folder's tensors."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_folder_that_is_not_there_says_that_names_need_the_network(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such folder; fetching a model by its name needs the network"):
        load_pretrained("meta-llama/Llama-3.2-1B")
    with pytest.raises(FileNotFoundError, match=r"no config.json in it"):
        load_pretrained(tmp_path)


def test_weights_of_another_kind_are_named(saved):
    _, folder = saved
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"must hold model.safetensors or model.safetensors.index.json, found pytorch_model.bin"
    ):
        load_pretrained(folder)


def test_another_architecture_names_missing_and_unexpected_tensors(saved):
    _, folder = saved

    def change(tensors):
        tensors["model.layers.0.self_attn.rotor.weight"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")

    edit(folder, change)
    with pytest.raises(
        ValueError,
        match=r"missing model.layers.0.self_attn.q_proj.weight; unexpected model.layers.0.self_attn.rotor.weight",
    ):
        load_pretrained(folder)


def test_a_tensor_of_another_shape_is_named(saved):
    _, folder = saved
    edit(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(5)}))
    with pytest.raises(
        ValueError, match=r"model.norm.weight in .* must be \(18,\) \(as our final_norm.weight\), got \(5,\)"
    ):
        load_pretrained(folder)


def test_an_unknown_family_is_refused(saved):
    _, folder = saved
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with refused(match=r"model_type must be one of gpt2, llama, .* got 'mamba'"):
        load_pretrained(folder)


def test_a_damaged_file_is_named(saved):
    _, folder = saved
    (folder / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{not json at all")
    with refused(match=r"model.safetensors is damaged or no safetensors file"):
        load_pretrained(folder)


def test_a_missing_key_and_an_unknown_option_are_named():
    hf = config_to_hf(config())
    del hf["hidden_size"]
    with refused(match=r"config.json of a llama model must have the key 'hidden_size'"):
        config_from_hf(hf)
    with refused(match=r"hidden_act must be one of silu, .* got 'mish'"):
        config_from_hf(config_to_hf(config()) | {"hidden_act": "mish"})
    with refused(match="scale_attn_by_inverse_layer_idx=True is not supported"):
        config_from_hf(config_to_hf(PRESETS["tiny-gpt2"]) | {"scale_attn_by_inverse_layer_idx": True})


def test_shards_are_small_complete_and_indexed(tmp_path):
    model = small(tie_embeddings=False)
    save_pretrained(model, tmp_path, max_shard_bytes=3000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    stored = {path.name: load_file(path) for path in shards}
    assert {name: file for file, tensors in stored.items() for name in tensors} == index["weight_map"]
    total = sum(tensor.nbytes for tensors in stored.values() for tensor in tensors.values())
    assert index["metadata"]["total_size"] == total == sum(p.nbytes for p in model.parameters())
    assert all(len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 3000 for tensors in stored.values())
    ids = torch.arange(7)[None]
    assert torch.equal(load_pretrained(tmp_path)(ids), model(ids))
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"names shards that are not there: {shards[1].name}"):
        load_pretrained(tmp_path)


def test_saving_again_leaves_no_weights_of_before(tmp_path):
    save_pretrained(small(), tmp_path, max_shard_bytes=3000)
    save_pretrained(small(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    save_pretrained(small(), tmp_path, max_shard_bytes=3000)
    assert not (tmp_path / "model.safetensors").exists()


def test_tied_heads_and_old_buffers_in_a_file_are_left_unread(saved):
    model, folder = saved

    def change(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(3)

    edit(folder, change)
    ids = torch.arange(7)[None]
    assert torch.equal(load_pretrained(folder)(ids), model(ids))


def test_gpt2_files_without_the_leading_name_are_read(tmp_path):
    model = Transformer(PRESETS["tiny-gpt2"], torch.Generator().manual_seed(0)).eval()
    save_pretrained(model, tmp_path)

    def change(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = torch.ones(1, 1, 4, 4)

    edit(tmp_path, change)
    ids = torch.arange(7)[None]
    assert torch.equal(load_pretrained(tmp_path)(ids), model(ids))


def test_dtypes_are_kept_or_converted(tmp_path):
    save_pretrained(small().to(torch.bfloat16), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_pretrained(tmp_path).embedding.weight.dtype == torch.bfloat16
    model = load_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training


def test_keys_of_a_loaded_config_survive_saving(saved, tmp_path):
    _, folder = saved
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 9, "note": "kept"}))
    again = tmp_path / "again"
    save_pretrained(load_pretrained(folder), again)
    hf = json.loads((again / "config.json").read_text())
    assert (hf["eos_token_id"], hf["note"], hf["bos_token_id"]) == (9, "kept", None)


def test_a_family_that_cannot_say_the_config_is_refused(tmp_path):
    with refused(match=r"nearest is llama, which differs in .*qk_norm"):
        save_pretrained(small(qk_norm=True), tmp_path, family="llama")
    with refused(match="family must be one of gpt2"):
        save_pretrained(small(), tmp_path, family="lama")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "family"),
    [
        ({}, "llama"),
        ({"window": 4}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": True, "window": 3, "full_attention_layers": (0,)}, "qwen3"),
        ({"moe": CONFIGS["moe"].moe.__class__(n_experts=4, top_k=2, expert_width=13)}, "mixtral"),
    ],
)
def test_the_family_is_found(options, family):
    assert config_to_hf(config(n_layers=2, **options))["model_type"] == family


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "tiny-moe" and name != "tiny-mla"])
def test_every_published_preset_can_be_said(name):
    hf = json.loads(json.dumps(config_to_hf(PRESETS[name])))
    assert config_from_hf(hf).to_dict() | {"moe": None} == PRESETS[name].to_dict() | {"moe": None}


def test_prediction_modules_are_stored_as_further_layers(tmp_path):
    base = PRESETS["deepseek-v3"]
    tiny = base.replace(
        vocab_size=31, context=64, width=16, n_layers=3, n_heads=2, ffn_width=12, n_mtp=2,
        latent=base.latent.__class__(kv_rank=6, q_rank=5, nope_dim=4, rope_dim=2, value_dim=3),
        moe=base.moe.__class__(n_experts=4, top_k=2, expert_width=5, n_shared=1, router="sigmoid", bias_balancing=True, dense_layers=(0,)),
    )  # fmt: skip
    model = Transformer(tiny, torch.Generator().manual_seed(0)).eval()
    save_pretrained(model, tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert {
        "model.layers.3.eh_proj.weight",
        "model.layers.4.enorm.weight",
        "model.layers.3.mlp.experts.3.up_proj.weight",
    } <= names
    again, ids = load_pretrained(tmp_path), torch.arange(9)[None]
    for mine, theirs in zip(
        model.mtp_logits(model.hidden(ids), ids), again.mtp_logits(again.hidden(ids), ids), strict=True
    ):
        assert torch.equal(mine, theirs)

    def drop(tensors):  # as published: the modules announced, but not all folders ship them
        for name in [name for name in tensors if name.startswith(("model.layers.3", "model.layers.4"))]:
            del tensors[name]

    edit(tmp_path, drop)
    assert load_pretrained(tmp_path).config.n_mtp == 0


def test_module_paths_of_the_families():
    assert module_path("gemma2", "blocks.1.ffn_norm.weight") == "model.layers.1.pre_feedforward_layernorm.weight"
    assert module_path("mixtral", "blocks.1.ffn.router.weight") == "model.layers.1.block_sparse_moe.gate.weight"
    assert (
        module_path("deepseek_v3", "blocks.1.attention.kv_down_proj.weight")
        == "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"
    )
    assert module_path("qwen3", "head.weight") == "lm_head.weight"


def test_defaults_of_a_bare_config_are_those_of_the_family():
    bare = {
        "model_type": "llama",
        "vocab_size": 9,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "intermediate_size": 5,
    }
    assert config_from_hf(bare) == ModelConfig(
        vocab_size=9,
        width=8,
        n_heads=2,
        n_kv_heads=2,
        head_dim=4,
        n_layers=1,
        ffn_width=5,
        context=2048,
        tie_embeddings=False,
    )
