"""A GGUF file written here from a small model, read back through transformers."""

import sys

import pytest
import torch
from refused import refused
from transformer_oracle import config

from llmcore.model import Transformer, load_pretrained
from llmcore.positions import half_to_interleaved

NAMES = {
    "attention_norm": "attn_norm",
    "attention.q_proj": "attn_q",
    "attention.k_proj": "attn_k",
    "attention.v_proj": "attn_v",
    "attention.o_proj": "attn_output",
    "ffn_norm": "ffn_norm",
    "ffn.gate_proj": "ffn_gate",
    "ffn.up_proj": "ffn_up",
    "ffn.down_proj": "ffn_down",
}


def write_gguf(path, model: Transformer) -> None:
    """The model as a llama GGUF file: queries and keys there are in the interleaved layout."""
    gguf = pytest.importorskip("gguf", reason="it writes the file under test")
    c = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.n_layers)
    writer.add_feed_forward_length(c.ffn_width)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_vocab_size(c.vocab_size)
    state = model.state_dict()
    tensors = {
        "token_embd": state["embedding.weight"],
        "output_norm": state["final_norm.weight"],
        "output": state["head.weight"],
    }
    for layer in range(c.n_layers):
        for ours, theirs in NAMES.items():
            weight = state[f"blocks.{layer}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                weight = half_to_interleaved(weight, c.n_heads if theirs == "attn_q" else c.n_kv_heads)
            tensors[f"blk.{layer}.{theirs}"] = weight
    for name, tensor in tensors.items():
        writer.add_tensor(f"{name}.weight", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.interop
@torch.no_grad()
def test_a_gguf_file_gives_the_same_logits(tmp_path):
    for package in ("transformers", "accelerate"):
        pytest.importorskip(package, reason="it reads the file")
    options = {"n_heads": 4, "n_kv_heads": 2, "width": 32, "ffn_width": 64, "tie_embeddings": False, "vocab_size": 64}
    model = Transformer(config(**options), torch.Generator().manual_seed(0)).eval()
    write_gguf(tmp_path / "small.gguf", model)
    ids = torch.arange(11)[None]
    torch.testing.assert_close(load_pretrained(tmp_path / "small.gguf")(ids), model(ids), atol=1e-4, rtol=1e-4)


def test_without_the_packages_it_says_which(tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    pytest.importorskip("accelerate", reason="the package asked for first")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with refused(match=r"reading small.gguf needs the package gguf, which is not installed: pip install"):
        load_pretrained(tmp_path / "small.gguf")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with refused(match=r"none.gguf must be a local GGUF file, found no such file", error=FileNotFoundError):
        load_pretrained(tmp_path / "none.gguf")
