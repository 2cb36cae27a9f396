"""How weights start, and the parts of the training loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformer_oracle import CONFIGS, config

from llmcore.model import ModelConfig, MoeConfig, Transformer, training_loss
from llmcore.model.losses import token_loss
from llmcore.moe import balance_loss, router_z_loss

WIDE = {"vocab_size": 300, "width": 96, "n_heads": 4, "n_layers": 8, "ffn_width": 200, "tie_embeddings": False}


def std_of(model: Transformer, ending: str) -> float:
    return torch.cat([p.flatten() for name, p in model.named_parameters() if name.endswith(ending)]).std().item()


def test_gpt2_start_divides_the_residual_writers():
    model = Transformer(ModelConfig(**WIDE, qkv_bias=True), torch.Generator().manual_seed(0))
    for ending in ("embedding.weight", "head.weight", "q_proj.weight", "gate_proj.weight"):
        assert std_of(model, ending) == pytest.approx(0.02, rel=0.03), ending
    for ending in ("o_proj.weight", "down_proj.weight"):
        assert std_of(model, ending) == pytest.approx(0.02 / math.sqrt(16), rel=0.03), ending
    assert model.blocks[0].attention.q_proj.bias.abs().sum() == 0
    assert (model.final_norm.weight == 1).all()


def test_deepnorm_start():
    model = Transformer(ModelConfig(**WIDE, norm_placement="deep"), torch.Generator().manual_seed(0))
    beta = (8 * 8) ** -0.25
    assert std_of(model, "q_proj.weight") == pytest.approx(math.sqrt(2 / 192), rel=0.03)
    assert std_of(model, "v_proj.weight") == pytest.approx(beta * math.sqrt(2 / 192), rel=0.03)
    assert std_of(model, "up_proj.weight") == pytest.approx(beta * math.sqrt(2 / 296), rel=0.03)


def test_a_generator_makes_the_start_repeatable_and_leaves_the_global_state():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    models = [Transformer(CONFIGS["moe"], torch.Generator().manual_seed(3)) for _ in range(2)]
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), name
    other = Transformer(CONFIGS["moe"], torch.Generator().manual_seed(4))
    assert not torch.equal(other.embedding.weight, models[0].embedding.weight)
    assert expected.shape == (3,)


def test_a_fresh_model_knows_nothing():
    model = Transformer(ModelConfig(vocab_size=50, width=32, n_layers=2, n_heads=4), torch.Generator().manual_seed(0))
    ids = torch.randint(0, 50, (4, 20), generator=torch.Generator().manual_seed(1))
    assert training_loss(model, ids[:, :-1], ids[:, 1:])["total"].item() == pytest.approx(math.log(50), abs=0.1)


def sample(vocab: int = 31):
    ids = torch.randint(0, vocab, (2, 9), generator=torch.Generator().manual_seed(1))
    targets = torch.cat((ids[:, 1:], torch.full((2, 1), -100)), dim=1)
    return ids, targets


def test_token_loss_counts_kept_targets_only():
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    targets = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    kept = [(0, 0, 1), (0, 2, 4), (1, 2, 0)]
    expected = sum(-logits[b, t].log_softmax(0)[v] for b, t, v in kept) / 3
    torch.testing.assert_close(token_loss(logits, targets).double(), expected, rtol=1e-6, atol=1e-6)
    assert token_loss(logits, torch.full((2, 3), -100)).item() == 0


def test_z_loss_is_the_mean_squared_log_partition_of_counted_positions():
    model = Transformer(config(z_loss=0.1), torch.Generator().manual_seed(0))
    ids, targets = sample()
    losses = training_loss(model, ids, targets)
    log_z = model(ids).logsumexp(-1)[:, :-1]
    torch.testing.assert_close(losses["z"], 0.1 * log_z.square().mean())
    torch.testing.assert_close(losses["total"], losses["token"] + losses["z"])
    assert set(training_loss(Transformer(config()), ids, targets)) == {"token", "total"}


def test_router_losses_are_added_with_their_coefficients():
    moe = MoeConfig(n_experts=5, top_k=2, expert_width=6, balance_loss=0.5, router_z_loss=0.25)
    model = Transformer(config(moe=moe), torch.Generator().manual_seed(0))
    ids, targets = sample()
    losses, routings = training_loss(model, ids, targets), []
    model.hidden(ids, routings=routings)
    assert len(routings) == 3
    torch.testing.assert_close(losses["balance"], 0.5 * torch.stack([balance_loss(r) for r in routings]).mean())
    torch.testing.assert_close(losses["router_z"], 0.25 * torch.stack([router_z_loss(r) for r in routings]).mean())


def test_biases_of_routers_move_while_training_only():
    model = Transformer(CONFIGS["moe-sigmoid"], torch.Generator().manual_seed(0))
    ids, targets = sample()
    training_loss(model.eval(), ids, targets)
    assert all((layer.choice_bias == 0).all() for layer in model.moe_layers())
    training_loss(model.train(), ids, targets)
    assert all(
        (layer.choice_bias.abs() == pytest.approx(0.001))
        for layer in model.moe_layers()
        if (layer.choice_bias != 0).all()
    )
    assert any((layer.choice_bias != 0).any() for layer in model.moe_layers())


def test_prediction_modules_look_further_and_never_see_what_they_predict():
    model = Transformer(config(n_mtp=2), torch.Generator().manual_seed(0)).eval()
    ids, targets = sample()
    with torch.no_grad():
        before = model.mtp_logits(model.hidden(ids), ids)
        assert [tuple(logits.shape) for logits in before] == [(2, 8, 31), (2, 7, 31)]
        changed = ids.clone()
        changed[:, 5] = (changed[:, 5] + 1) % 31
        after = model.mtp_logits(model.hidden(changed), changed)
    for depth, (a, b) in enumerate(zip(before, after), start=1):
        # Module `depth` at position t has read up to token t + depth.
        assert torch.equal(a[:, : 5 - depth], b[:, : 5 - depth])
        assert (a[:, 5 - depth] - b[:, 5 - depth]).abs().max() > 1e-4
    losses = training_loss(model, ids, targets)
    parts = [
        F.cross_entropy(before[0][:, :7].flatten(0, 1), ids[:, 2:].flatten()),
        F.cross_entropy(before[1][:, :6].flatten(0, 1), ids[:, 3:].flatten()),
    ]
    torch.testing.assert_close(losses["mtp"], 0.3 * (parts[0] + parts[1]) / 2)


def test_prediction_modules_do_not_learn_across_documents():
    model = Transformer(config(n_mtp=1), torch.Generator().manual_seed(0)).eval()
    ids, _ = sample()
    doc_ids = torch.tensor([[0] * 5 + [1] * 4] * 2)
    targets = torch.cat((ids[:, 1:], torch.full((2, 1), -100)), dim=1)
    targets[:, 4] = -100
    packed = training_loss(model, ids, targets, doc_ids)["mtp"]
    with torch.no_grad():
        first, second = (model.mtp_logits(model.hidden(part), part)[0] for part in (ids[:, :5], ids[:, 5:]))
        logits = torch.cat((first[:, :-1], second[:, :-1]), dim=1)
        labels = torch.cat((ids[:, 2:5], ids[:, 7:]), dim=1)
    torch.testing.assert_close(packed, 0.3 * F.cross_entropy(logits.flatten(0, 1), labels.flatten()))


def test_a_tiny_model_learns():
    model = Transformer(
        config(
            n_layers=1, n_mtp=1, z_loss=1e-4, moe=MoeConfig(n_experts=4, top_k=2, expert_width=8, balance_loss=0.01)
        ),
        torch.Generator().manual_seed(0),
    )
    ids = (torch.arange(12) * 7 % 31)[None]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    first = None
    for _ in range(25):
        losses = training_loss(model, ids[:, :-1], ids[:, 1:])
        first = first or losses["token"].item()
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()
    assert losses["token"].item() < first / 3
