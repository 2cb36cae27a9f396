"""LeanDecoder: the model's own logits up to rounding, for what it serves, and a reason in words for what it does not."""

import pytest
import torch
from transformer_oracle import CONFIGS, config

from llmcore.generate.decoder import CachedDecoder, make_decoder
from llmcore.generate.lean import LeanDecoder, why_not
from llmcore.model import PRESETS, Transformer
from llmcore.positions import RopeScaling

SERVED = {
    "plain": CONFIGS["plain"],
    "gqa": CONFIGS["gqa"],
    "window": CONFIGS["window"],
    "nope-layers": CONFIGS["nope-layers"],
    "llama3-scaling": CONFIGS["llama3-scaling"],
    "yarn": config(rope_scaling=RopeScaling(kind="yarn", factor=4.0, original_context=8)),
    "gpt2": config(position="learned", norm="layer", norm_bias=True, qkv_bias=True, out_bias=True, ffn_bias=True, ffn="gelu_tanh"),
    "sinusoidal-layer": config(position="sinusoidal", norm="layer", ffn="relu2"),
    "none-scaled-capped": config(position="none", embedding_scale=3.0, logit_softcap=2.0, norm_unit_offset=True, attention_scale=0.3, ffn="geglu"),
}  # fmt: skip
# The same sums in another order, in float32, on logits of size 1 to 10.
TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


@pytest.fixture(params=SERVED)
def model(request) -> Transformer:
    generator = torch.Generator().manual_seed(0)
    model = Transformer(SERVED[request.param], generator).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model


def some_ids(batch: int = 2, time: int = 12) -> torch.Tensor:
    return torch.randint(0, 31, (batch, time), generator=torch.Generator().manual_seed(1))


def logits_of(decoder, ids, prompt: int, real=None) -> torch.Tensor:
    steps = [decoder.read(ids[:, :prompt], real)]
    steps += [decoder.step(ids[:, t]) for t in range(prompt, ids.shape[1])]
    return torch.stack(steps, dim=1).clone()


@pytest.mark.parametrize("max_tokens", [12, None])
def test_logits_equal_the_models_own(model, max_tokens):
    assert why_not(model) is None
    ids = some_ids()
    got = logits_of(LeanDecoder(model, max_tokens), ids, prompt=5)
    with torch.no_grad():
        torch.testing.assert_close(got, model(ids)[:, 4:], **TOLERANCE)


def test_left_padding_is_not_seen(model):
    ids, real = some_ids(), torch.tensor([[False] * 3 + [True] * 2, [True] * 5])
    got = logits_of(LeanDecoder(model, 12), ids, prompt=5, real=real)
    with torch.no_grad():
        torch.testing.assert_close(got[0], model(ids[:1, 3:])[0, 1:], **TOLERANCE)
        torch.testing.assert_close(got[1], model(ids[1:])[0, 4:], **TOLERANCE)


def test_rows_can_be_reordered_and_room_grows(model):
    ids = some_ids(time=30)
    lean, ordinary = LeanDecoder(model), CachedDecoder(model)
    for decoder in (lean, ordinary):
        decoder.read(ids[:, :5])
    rows = torch.tensor([1, 1, 0])
    for decoder in (lean, ordinary):
        decoder.reorder(rows)
    for t in range(5, 30):
        got, expected = lean.step(ids[rows, t]), ordinary.step(ids[rows, t])
    torch.testing.assert_close(got.clone(), expected.clone(), **TOLERANCE)


def test_a_text_longer_than_the_first_room(model):
    if model.config.position == "learned":
        pytest.skip("learned positions end before")
    ids = some_ids(batch=1, time=75)
    got = logits_of(LeanDecoder(model), ids, prompt=3)[:, -1]
    with torch.no_grad():
        torch.testing.assert_close(got, model(ids)[:, -1], **TOLERANCE)


def test_that_tolerance_catches_a_forgotten_fold():
    model = Transformer(SERVED["plain"], torch.Generator().manual_seed(0)).eval()
    lean = LeanDecoder(model, 12)
    with torch.no_grad():
        model.blocks[1].ffn_norm.weight.add_(0.05)  # the copy keeps the old gain
    ids = some_ids()
    got = logits_of(lean, ids, prompt=5)
    with torch.no_grad():
        assert (got[:, -1] - model(ids)[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mla", "it holds a LatentAttention"),
        ("moe", "it holds a MixtureOfExperts"),
        ("qk-norm", "it has QK-norm"),
        ("alibi", "it has ALiBi"),
        ("learned-post", "it has post-norm blocks"),
        ("mqa-interleaved", "it has the interleaved RoPE layout"),
        ("none-encoder", "it has no causal mask"),
    ],
)
def test_what_it_does_not_serve_gets_a_reason_and_the_ordinary_decoder(name, reason):
    model = Transformer(CONFIGS[name])
    assert why_not(model) == reason
    assert isinstance(make_decoder(model, 9, 9), CachedDecoder)


def test_changed_modules_hooks_and_other_dtypes_are_not_bypassed():
    model = Transformer(CONFIGS["plain"])
    assert isinstance(make_decoder(model, 9, 9), LeanDecoder)
    assert isinstance(make_decoder(model, 9, 1), CachedDecoder)
    assert why_not(model.double()) == "it is not in float32 on the CPU"
    hooked = Transformer(CONFIGS["plain"])
    hooked.blocks[0].ffn.up_proj.register_forward_hook(lambda *_: None)
    assert why_not(hooked) == "it has forward hooks"

    class LowRank(torch.nn.Linear):
        pass

    adapted = Transformer(CONFIGS["plain"])
    adapted.blocks[1].attention.q_proj = LowRank(18, 18)
    assert why_not(adapted) == "it holds a LowRank"
    with torch.device("meta"):
        large = Transformer(PRESETS["gpt2-124m"])
    assert why_not(large) == "it is not in float32 on the CPU"
