"""Hugging Face checkpoints, in and out: safetensors folders of GPT-2, Llama, Mistral, Qwen2, Qwen3, Gemma 2, Mixtral, Qwen3-MoE, DeepSeek-V3.

- `families`: config.json to ModelConfig and back
- `tensors`: which of their tensors is which of ours
- `files`: safetensors files, sharded or not
- `gguf`: GGUF files, through transformers
- `checkpoint`: load_pretrained and save_pretrained

Only local folders are read: nothing here uses the network, and transformers need not be installed.
"""

from llmcore.model.hf.checkpoint import load_pretrained, save_pretrained
from llmcore.model.hf.families import FAMILIES, config_from_hf, config_to_hf
from llmcore.model.hf.tensors import module_path

__all__ = ["FAMILIES", "config_from_hf", "config_to_hf", "load_pretrained", "module_path", "save_pretrained"]
