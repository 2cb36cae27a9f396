"""Both directions against transformers on small random models: logits, cached decoding, and files."""

import json
from itertools import pairwise

import pytest
import torch

from llmcore.model import Transformer, load_pretrained, save_pretrained
from llmcore.model.hf import FAMILIES, config_from_hf

transformers = pytest.importorskip("transformers", reason="transformers is the peer of this file")
pytestmark = pytest.mark.interop

# float32 on both sides; a wrong scale, window, or rotation is off by more than 1e-2 on these models.
TOLERANCE = 1e-4

SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0}
LATENT = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.7},
}
CASES = {
    "gpt2": ("gpt2", {"vocab_size": 97, "n_positions": 64, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_inner": 80, "initializer_range": 0.2}),
    "llama": ("llama", {**SMALL, "rope_parameters": LLAMA3}),
    "llama-bias-tied-linear": (
        "llama",
        {**SMALL, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "head_dim": 10,
         "rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
    ),
    "llama-yarn": ("llama", {**SMALL, "rope_parameters": YARN}),
    "llama-dynamic": (
        "llama",
        {**SMALL, "max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}},
    ),
    "mistral": ("mistral", {**SMALL, "sliding_window": 5}),
    "qwen2": ("qwen2", {**SMALL, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {**SMALL, "head_dim": 10, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**SMALL, "head_dim": 10, "query_pre_attn_scalar": 24, "sliding_window": 5,
                          "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "mixtral": ("mixtral", {**SMALL, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6}),
    "qwen3_moe": ("qwen3_moe", {**SMALL, "head_dim": 10, "num_experts": 5, "num_experts_per_tok": 2,
                                "moe_intermediate_size": 24, "mlp_only_layers": [1], "norm_topk_prob": True}),
    "deepseek_v3": ("deepseek_v3", {**SMALL, **LATENT}),
    "deepseek_v3-plain-query": ("deepseek_v3", {**SMALL, **LATENT, "q_lora_rank": None, "rope_interleave": False,
                                                "norm_topk_prob": False, "attention_bias": True}),
}  # fmt: skip


def peer_model(case: str, seed: int = 0):
    """A random transformers model of that case, its norms, biases and router biases away from their plain start."""
    model_type, options = CASES[case]
    torch.manual_seed(seed)
    config = transformers.AutoConfig.for_model(model_type, **options, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name or "ln_" in name or name.endswith("bias"):
                tensor.add_(0.3 * torch.randn(tensor.shape))
    return model


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """(case, their model, ours loaded from their folder, the folder)."""
    folder = tmp_path_factory.mktemp(request.param)
    theirs = peer_model(request.param)
    theirs.save_pretrained(folder)
    return request.param, theirs, load_pretrained(folder), folder


def some_ids(batch: int = 2, time: int = 23, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 97, (batch, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_logits_of_a_loaded_model_equal_transformers(pair):
    _, theirs, ours, _ = pair
    ids = some_ids()
    expected = theirs(ids).logits
    assert expected.std() > 0.2, "a model that says nothing would agree with anything"
    torch.testing.assert_close(ours(ids), expected, atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_cached_decoding_equals_transformers(pair):
    _, theirs, ours, _ = pair
    ids = some_ids(time=21)
    cache, past, got, expected = ours.make_cache(), None, [], []
    cuts = [0, 9, 10, 11, 14, 15, 16, 17, 18, 19, 20, 21]
    for start, end in pairwise(cuts):
        got.append(ours(ids[:, start:end], cache=cache))
        out = theirs(ids[:, start:end], past_key_values=past, use_cache=True)
        past = out.past_key_values
        expected.append(out.logits)
    torch.testing.assert_close(torch.cat(got, 1), torch.cat(expected, 1), atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_a_saved_model_loads_in_transformers_with_the_same_logits(pair, tmp_path):
    case, _, ours, _ = pair
    save_pretrained(ours, tmp_path, max_shard_bytes=40_000)
    assert (tmp_path / "model.safetensors.index.json").exists()
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert type(theirs).__name__ == FAMILIES[CASES[case][0]].architecture
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = some_ids(seed=2)
    torch.testing.assert_close(theirs.eval()(ids).logits, ours(ids), atol=TOLERANCE, rtol=TOLERANCE)


@torch.no_grad()
def test_save_and_load_give_the_same_model_to_the_last_bit(pair, tmp_path):
    _, _, ours, _ = pair
    save_pretrained(ours, tmp_path)
    again = load_pretrained(tmp_path)
    assert again.config == ours.config
    for (name, mine), (other_name, other) in zip(ours.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == other_name
        assert torch.equal(mine, other), name


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("mistral", {"sliding_window": 6}),
        ("qwen2", {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
        ("gemma2", {"query_pre_attn_scalar": 20}),
        ("gemma2", {"attn_logit_softcapping": 3.0}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}),
        ("llama", {"rope_parameters": {**LLAMA3, "factor": 4.0}}),
        ("llama-yarn", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
        ("deepseek_v3", {"routed_scaling_factor": 2.0}),
        ("deepseek_v3", {"topk_group": 3}),
        ("deepseek_v3", {"rope_interleave": False}),
        ("qwen3_moe", {"norm_topk_prob": False}),
    ],
)
@torch.no_grad()
def test_that_tolerance_catches_one_wrong_option(case, change, tmp_path):
    theirs = peer_model(case)
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    ids = some_ids()
    assert (load_pretrained(tmp_path)(ids) - theirs(ids).logits).abs().max() > 10 * TOLERANCE


@torch.no_grad()
def test_left_padded_rows_equal_the_same_rows_alone_in_transformers(pair):
    case, theirs, ours, _ = pair
    if case == "llama-dynamic":
        pytest.skip("dynamic scaling depends on the longest row of the batch")
    ids = some_ids(time=11)
    doc_ids = torch.tensor([[-1] * 4 + [0] * 7, [0] * 11])
    got = ours(ids, doc_ids=doc_ids)[0, 4:]
    torch.testing.assert_close(got, theirs(ids[:1, 4:]).logits[0], atol=TOLERANCE, rtol=TOLERANCE)


def test_every_family_is_covered():
    assert {model_type for model_type, _ in CASES.values()} == set(FAMILIES)


@torch.no_grad()
def test_a_model_trained_here_from_scratch_loads_in_transformers(tmp_path):
    from llmcore.model import PRESETS

    model = Transformer(PRESETS["tiny"], torch.Generator().manual_seed(0)).eval()
    save_pretrained(model, tmp_path, token_ids={"eos_token_id": 0})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.config.eos_token_id == 0
    assert theirs.config.bos_token_id is None
    ids = some_ids()
    torch.testing.assert_close(theirs(ids).logits, model(ids), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_our_reading_of_a_default_config_is_that_of_transformers(case):
    model_type, options = CASES[case]
    theirs = transformers.AutoConfig.for_model(model_type, **options)
    config = config_from_hf(theirs.to_dict())
    assert config.context == theirs.max_position_embeddings
    assert config.tie_embeddings == theirs.tie_word_embeddings
