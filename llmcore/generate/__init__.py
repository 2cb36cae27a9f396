"""Text from a model: one token after another, by several rules.

- `sampling`: from logits to the distribution that is sampled (temperature, top-k, top-p, min-p, repetition penalty)
- `loop`: `generate`, greedy or sampled, batched, streaming
- `beam`, `contrastive`, `speculative`: searches that look further than one token
- `decoder`: prompt and steps through a KV cache; `lean`: the same for small models on a CPU, several times faster
- `prompt`, `stopping`: what comes in, and when to end

Taught in: 02_attention_scaling (the cache) and the practitioner's part of the book.
"""

from llmcore.generate.beam import beam_search
from llmcore.generate.contrastive import contrastive_search
from llmcore.generate.decoder import CachedDecoder, make_decoder
from llmcore.generate.loop import generate
from llmcore.generate.sampling import Sampling, sampling_distribution
from llmcore.generate.speculative import speculative_generate

__all__ = [
    "CachedDecoder",
    "Sampling",
    "beam_search",
    "contrastive_search",
    "generate",
    "make_decoder",
    "sampling_distribution",
    "speculative_generate",
]
