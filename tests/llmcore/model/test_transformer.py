"""The Transformer against a second one written from the formulas, and what must hold of every architecture."""

import copy
import dataclasses

import pytest
import torch
from refused import refused
from transformer_oracle import CONFIGS, Oracle, config

from llmcore.model import ModelConfig, Transformer
from llmcore.model.hf import config_to_hf
from llmcore.positions import RopeScaling

# float32 model, float64 oracle, logits of size 1 to 10. A wrong window, norm or rotation is off by more than 1e-2.
TOLERANCE = {"atol": 2e-4, "rtol": 2e-4}


def make(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model whose norms and biases are away from their plain start."""
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config, generator).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "norm" in name or name.endswith("bias"):
                tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def model(request) -> Transformer:
    return make(CONFIGS[request.param])


def some_ids(batch: int = 2, time: int = 13, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, 31, (batch, time), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_logits_equal_the_oracle(model):
    ids = some_ids()
    oracle = Oracle(model.config, model.state_dict())
    expected = torch.stack([oracle(row) for row in ids])
    assert expected.std() > 0.1, "a model that says nothing would agree with anything"
    torch.testing.assert_close(model(ids).double(), expected, **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain", {"rope_layout": "interleaved"}),
        ("plain", {"rope_base": 5000.0}),
        ("plain", {"norm_eps": 1e-2}),
        ("gqa", {"attention_scale": 1.0}),
        ("window", {"window": 4}),
        ("nope-layers", {"nope_layers": (0,)}),
        ("gemma-like", {"full_attention_layers": (1,)}),
        ("gemma-like", {"attention_softcap": 2.0}),
        ("gemma-like", {"norm_unit_offset": False}),
        ("sinusoidal-deep", {"norm_placement": "post"}),
        ("none-encoder", {"causal": True}),
        ("qk-norm", {"rope_scaling": RopeScaling(kind="linear", factor=4.0)}),
    ],
)
@torch.no_grad()
def test_that_tolerance_catches_one_wrong_option(name, change):
    model = make(CONFIGS[name])
    oracle = Oracle(dataclasses.replace(model.config, **change), model.state_dict())
    row = some_ids()[0]
    assert (model(row[None])[0] - oracle(row)).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("max_tokens", [None, 13])
def test_prefill_equals_step_by_step(model, max_tokens):
    if not model.config.causal:
        pytest.skip("an encoder does not decode")
    ids = some_ids()
    cache = model.make_cache(max_tokens)
    parts = [
        model(ids[:, start:end], cache=cache)
        for start, end in [(0, 1), (1, 5), (5, 6), (6, 7), (7, 11), (11, 12), (12, 13)]
    ]
    assert cache.length == 13
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids), **TOLERANCE)


@torch.no_grad()
def test_truncating_the_cache_takes_tokens_back(model):
    if not model.config.causal:
        pytest.skip("an encoder does not decode")
    ids, other = some_ids(), some_ids(seed=5)
    cache = model.make_cache()
    model(ids[:, :9], cache=cache)
    model(other[:, :3], cache=cache)
    cache.truncate(9)
    torch.testing.assert_close(model(ids[:, 9:], cache=cache), model(ids)[:, 9:], **TOLERANCE)


@torch.no_grad()
def test_packed_documents_equal_separate_ones(model):
    ids = some_ids()
    doc_ids = torch.tensor([[3] * 4 + [8] * 7 + [-1] * 2, [0] * 1 + [2] * 2 + [3] * 10])
    got = model(ids, doc_ids=doc_ids)
    for row in range(2):
        for doc in doc_ids[row].unique().tolist():
            where = doc_ids[row] == doc
            if doc != -1:
                torch.testing.assert_close(got[row, where], model(ids[row, where][None])[0], **TOLERANCE)
    assert torch.isfinite(got).all()


@torch.no_grad()
def test_packing_without_the_mask_would_be_seen():
    model = make(CONFIGS["plain"])
    ids = some_ids(batch=1)
    doc_ids = torch.tensor([[0] * 5 + [1] * 8])
    assert (model(ids) - model(ids, doc_ids=doc_ids))[0, 5:].abs().max() > 1e-2


@torch.no_grad()
def test_left_padding_and_cached_steps_equal_each_row_alone(model):
    if not model.config.causal:
        pytest.skip("an encoder does not decode")
    ids = some_ids()
    doc_ids = torch.tensor([[-1] * 4 + [0] * 5, [0] * 9])
    cache = model.make_cache()
    parts = [model(ids[:, :9], doc_ids=doc_ids, cache=cache)] + [
        model(ids[:, t : t + 1], cache=cache) for t in range(9, 13)
    ]
    got = torch.cat(parts, dim=1)
    torch.testing.assert_close(got[0, 4:], model(ids[:1, 4:])[0], **TOLERANCE)
    torch.testing.assert_close(got[1], model(ids[1:])[0], **TOLERANCE)


@torch.no_grad()
def test_a_document_may_go_on_in_later_calls_and_a_new_one_begin():
    model = make(CONFIGS["learned-post"])
    ids = some_ids(batch=1)
    doc_ids = torch.tensor([[0] * 6 + [1] * 7])
    cache = model.make_cache()
    parts = [model(ids[:, a:b], doc_ids=doc_ids[:, a:b], cache=cache) for a, b in [(0, 4), (4, 9), (9, 13)]]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(ids, doc_ids=doc_ids), **TOLERANCE)


@torch.no_grad()
def test_the_future_is_hidden(model):
    if not model.config.causal:
        pytest.skip("an encoder sees everything")
    ids = some_ids()
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 31
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-5, rtol=0)
    assert (before[:, 7] - after[:, 7]).abs().max() > 1e-3


@torch.no_grad()
def test_an_encoder_without_positions_cannot_tell_order_and_a_decoder_can():
    encoder = make(CONFIGS["none-encoder"])
    ids = some_ids(batch=1)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(ids[:, order]), encoder(ids)[:, order], **TOLERANCE)
    decoder = make(config(position="none"))
    swapped = ids[:, [1, 0, *range(2, 13)]]
    assert (decoder(swapped)[:, -1] - decoder(ids)[:, -1]).abs().max() > 1e-4


@torch.no_grad()
def test_explicit_positions_are_used():
    ids = some_ids()
    model = make(CONFIGS["plain"])
    torch.testing.assert_close(model(ids, positions=torch.arange(13)), model(ids))
    # RoPE knows distances alone, so a shift changes nothing; stretching does.
    torch.testing.assert_close(model(ids, positions=torch.arange(13) + 7), model(ids), **TOLERANCE)
    assert (model(ids, positions=2 * torch.arange(13)) - model(ids)).abs().max() > 1e-3
    learned = make(CONFIGS["learned-post"])
    rows = torch.stack((torch.arange(13), torch.arange(13) + 5))
    torch.testing.assert_close(learned(ids, positions=rows)[:1], learned(ids[:1]), **TOLERANCE)
    assert (learned(ids, positions=rows)[1] - learned(ids)[1]).abs().max() > 1e-2


def test_gradients_reach_every_parameter(model):
    model = copy.deepcopy(model)
    model(some_ids(time=11)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not without


@torch.no_grad()
def test_bfloat16_keeps_frequencies_and_gives_bfloat16():
    model = make(CONFIGS["plain"])
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert torch.equal(half.rotary.inv_freq, model.rotary.inv_freq)
    logits = half(some_ids())
    assert logits.dtype == torch.bfloat16
    # Eight bits of mantissa over three layers.
    assert (logits.float() - model(some_ids())).abs().max() < 0.15


@torch.no_grad()
def test_a_model_made_on_the_meta_device_can_be_filled():
    with torch.device("meta"):
        model = Transformer(CONFIGS["moe-sigmoid"])
    model = model.to_empty(device="cpu")
    model.initialize(torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.eval()(some_ids()),
        Transformer(CONFIGS["moe-sigmoid"], torch.Generator().manual_seed(0)).eval()(some_ids()),
    )


def test_dropout_acts_in_training_only():
    model = make(config(dropout=0.5))
    ids = some_ids()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert (model(ids) - model(ids)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("ids", "options", "message"),
    [
        (torch.zeros(4, dtype=torch.long), {}, r"shape \(batch, time\).*got torch.int64 \(4,\); for one sequence pass ids\[None\]"),
        (torch.zeros(1, 4), {}, "got torch.float32"),
        (torch.zeros(1, 0, dtype=torch.long), {}, "at least one token"),
        (torch.full((1, 4), 31), {}, r"ids must be in 0..30, got 31..31"),
        (torch.full((1, 4), -1), {}, r"ids must be in 0..30, got -1..-1"),
        (torch.zeros(2, 4, dtype=torch.long), {"doc_ids": torch.zeros(2, 3, dtype=torch.long)}, r"doc_ids must have the shape of ids \(2, 4\), got \(2, 3\)"),
        (torch.zeros(2, 4, dtype=torch.long), {"positions": torch.arange(5)}, r"positions must be \(T,\) or \(B, T\).*got \(5,\)"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_refused(ids, options, message):
    with refused(match=message):
        make(CONFIGS["plain"])(ids, **options)


def test_learned_positions_end_and_others_go_on():
    ids = some_ids(batch=1, time=41)
    with refused(match=r"learned positions 0..39, got position 40; shorten the text"):
        make(CONFIGS["learned-post"])(ids)
    assert make(CONFIGS["plain"])(ids).shape == (1, 41, 31)


def test_alibi_refuses_positions_that_are_no_columns():
    model = make(CONFIGS["alibi"])
    model(some_ids(), positions=torch.arange(13) + 3)
    with refused(match="ALiBi measures distance in columns"):
        model(some_ids(), positions=2 * torch.arange(13))


def test_cache_errors_say_what_to_do():
    model = make(CONFIGS["plain"])
    with torch.no_grad():
        cache = model.make_cache(5)
        model(some_ids(time=4), cache=cache)
        with refused(match="holds 5 tokens and has read 4; 2 more do not fit"):
            model(some_ids(time=2), cache=cache)
        with refused(match="doc_ids must be given from the first call on"):
            model(some_ids(time=1), doc_ids=torch.zeros(2, 1, dtype=torch.long), cache=cache)
        cache.reset()
        assert cache.length == 0
        torch.testing.assert_close(model(some_ids(time=4), cache=cache), model(some_ids(time=4)), **TOLERANCE)


@torch.no_grad()
def test_reordering_the_cache_moves_rows_with_their_padding():
    model = make(CONFIGS["learned-post"])
    ids = some_ids()
    doc_ids = torch.tensor([[-1] * 2 + [0] * 7, [0] * 9])
    cache = model.make_cache()
    model(ids[:, :9], doc_ids=doc_ids, cache=cache)
    rows = torch.tensor([1, 0, 0])
    cache.reorder(rows)
    got = model(ids[rows, 9:10], cache=cache)
    expected = model(ids[:, :10], doc_ids=torch.cat((doc_ids, torch.zeros(2, 1, dtype=torch.long)), 1))[rows, 9:]
    torch.testing.assert_close(got, expected, **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma-like", "mla"])
def test_torch_compile_sees_one_graph(name):
    torch.compiler.reset()
    model = make(CONFIGS[name])
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    ids, doc_ids = some_ids(), torch.tensor([[0] * 5 + [1] * 8] * 2)
    torch.testing.assert_close(compiled(ids), model(ids), **TOLERANCE)
    torch.testing.assert_close(compiled(ids, doc_ids=doc_ids), model(ids, doc_ids=doc_ids), **TOLERANCE)


def test_what_no_family_can_say_is_refused_with_the_fields():
    with refused(match=r"no Hugging Face family can say this config; nearest is .*position"):
        config_to_hf(CONFIGS["alibi"])
