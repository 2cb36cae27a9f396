"""Routers and experts against one token at a time, in plain Python."""

import pytest
import torch
from refused import refused

from llmcore.moe import Experts, MixtureOfExperts, MoeConfig, balance_loss, route, router_z_loss

N, X, K, E, F = 9, 6, 2, 5, 7


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**options) -> MixtureOfExperts:
    torch.manual_seed(0)
    config = MoeConfig(**({"n_experts": X, "top_k": K, "expert_width": F} | options))
    layer = MixtureOfExperts(config, E).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=gen(1))
    return layer


def one_token(layer: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    """What the layer should say about one token."""
    config = layer.config
    logits = layer.router.weight.float() @ x.float()
    scores = logits.softmax(0) if config.router == "softmax" else logits.sigmoid()
    ranking = scores + (layer.choice_bias if layer.choice_bias is not None else 0)
    size = X // config.n_groups
    groups = sorted(
        range(config.n_groups), key=lambda g: -ranking[g * size : (g + 1) * size].topk(min(2, size)).values.sum()
    )
    allowed = [i for i in range(X) if i // size in groups[: config.top_groups]]
    chosen = sorted(allowed, key=lambda i: -ranking[i].item())[:K]
    total = sum(scores[i] for i in chosen) if config.normalize else 1.0
    experts = layer.experts
    y = torch.zeros(E, dtype=x.dtype)
    for i in chosen:
        hidden = torch.nn.functional.silu(experts.gate_proj[i] @ x) * (experts.up_proj[i] @ x)
        y = y + (scores[i] / total * config.scale).double() * (experts.down_proj[i] @ hidden)
    return y if layer.shared is None else y + layer.shared(x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": False},
        {"router": "sigmoid", "scale": 2.5},
        {"n_shared": 2},
        {"router": "sigmoid", "n_groups": 3, "top_groups": 2, "n_shared": 1, "bias_balancing": True},
        {"n_groups": 2, "top_groups": 1},
    ],
)
def test_the_layer_equals_one_token_at_a_time(options):
    layer = make(**options)
    if layer.choice_bias is not None:
        layer.choice_bias.copy_(torch.randn(X, generator=gen(3)))
    x = torch.randn(3, 3, E, generator=gen(2), dtype=torch.float64)
    expected = torch.stack([one_token(layer, token) for token in x.view(-1, E)]).view_as(x)
    # Router scores are float32 by design.
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_the_choice_bias_chooses_but_does_not_weigh():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    biased = route(logits, 2, kind="sigmoid", normalize=False, choice_bias=torch.tensor([0.0, 0.0, 0.0, 5.0]))
    assert biased.experts.tolist() == [[3, 0]]
    torch.testing.assert_close(biased.weights, logits.sigmoid()[:, [3, 0]])


def test_groups_are_chosen_by_their_two_best():
    # The single best expert stands in group 0, but group 1 has the better pair.
    logits = torch.tensor([[3.0, -9.0, -9.0, 2.0, 2.0, -9.0]])
    routing = route(logits, 2, kind="sigmoid", n_groups=2, top_groups=1)
    assert sorted(routing.experts[0].tolist()) == [3, 4]


def test_no_token_for_an_expert_and_one_expert_for_all():
    layer = make(top_k=1)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[4] = 1.0
    x = torch.rand(1, 4, E, generator=gen(), dtype=torch.float64)
    routings = []
    y = layer(x, routings)
    assert routings[0].experts.flatten().tolist() == [4] * 4
    assert routings[0].load().tolist() == [0, 0, 0, 0, 1, 0]
    assert y.abs().max() > 0


def test_gradients_reach_router_experts_and_input():
    layer = make(n_shared=1)
    x = torch.randn(1, 6, E, generator=gen(), dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.router.weight.grad.abs().sum() > 0
    assert x.grad.abs().min() > 0
    used = layer.experts.down_proj.grad.abs().sum(dim=(1, 2)) > 0
    routings = []
    layer(x, routings)
    assert used.tolist() == (routings[0].load() > 0).tolist()


def test_experts_pass_a_gradient_check():
    torch.manual_seed(0)
    experts = Experts(3, 4, 2).double()
    with torch.no_grad():
        for weight in experts.parameters():
            weight.normal_(generator=gen())
    x = torch.randn(5, 4, generator=gen(1), dtype=torch.float64, requires_grad=True)
    chosen = torch.tensor([[0, 2], [2, 0], [0, 1], [1, 2], [0, 2]])
    weights = torch.rand(5, 2, generator=gen(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w, *_: experts(x, chosen, w), (x, weights, *experts.parameters()))


def test_balance_loss_is_one_when_even_and_n_experts_when_all_go_one_way():
    even = route(torch.zeros(X, X) + 1e-3 * torch.eye(X), 1)
    assert balance_loss(even).item() == pytest.approx(1.0, abs=1e-3)
    collapsed = route(torch.tensor([[30.0] + [0.0] * (X - 1)] * N), 1)
    assert balance_loss(collapsed).item() == pytest.approx(X, rel=1e-3)


def test_balance_loss_pushes_the_crowded_expert_down():
    logits = torch.randn(N, X, generator=gen())
    logits[:, 2] += 2
    logits.requires_grad_()
    balance_loss(route(logits, K)).backward()
    assert logits.grad.mean(dim=0).argmax().item() == 2


def test_router_z_loss_is_the_mean_squared_log_partition():
    logits = torch.randn(N, X, generator=gen())
    expected = sum(torch.logsumexp(row, 0).item() ** 2 for row in logits) / N
    assert router_z_loss(route(logits, K)).item() == pytest.approx(expected, rel=1e-5)


def test_bias_balancing_evens_out_the_load():
    layer = make(router="sigmoid", bias_balancing=True, bias_step=0.02, top_k=1)
    x = torch.randn(1, 200, E, generator=gen(), dtype=torch.float64) + 1.0

    def spread() -> float:
        routings = []
        layer(x, routings)
        layer.update_balance(routings[0])
        return routings[0].load().std().item()

    before = spread()
    for _ in range(200):
        after = spread()
    assert after < before / 3
    with refused(match="bias_balancing=True"):
        make().update_balance(route(torch.zeros(1, X), 1))


def test_the_bias_stays_exact_in_a_bfloat16_model():
    layer = make(bias_balancing=True)
    layer.choice_bias += 1.001
    layer = layer.to(torch.bfloat16)
    assert layer.router.weight.dtype == torch.bfloat16
    assert layer.choice_bias.tolist() == pytest.approx([1.001] * X, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 7}, "top_k must be between 1 and n_experts=6, got 7"),
        ({"n_groups": 4}, "n_groups must divide n_experts=6, got 4"),
        ({"n_groups": 3, "top_groups": 4}, "top_groups must be between 1 and n_groups=3, got 4"),
        ({"n_groups": 6}, "groups of one expert"),
        ({"n_groups": 3, "top_groups": 1, "top_k": 3}, "more than the 2 experts of 1 groups"),
        ({"router": "tanh"}, "'softmax' or 'sigmoid', got 'tanh'"),
        ({"expert_width": 0}, "expert_width must be at least 1, got 0"),
    ],
)
def test_wrong_configs_are_refused(options, message):
    with refused(match=message):
        make(**options)
