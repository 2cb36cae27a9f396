"""The meters count traffic, what operators make, what is alive at once, and matrix products; a known piece of work tells."""

import torch

from llmcore.meter import Meter, SlowMemory, blocks, flops_of, seconds_of


def test_a_slow_memory_counts_each_value_that_passes_and_hands_out_copies():
    memory = SlowMemory(x=torch.arange(10.0), y=torch.zeros(3, 2))
    for part in blocks(10, 4):
        memory.load("x", part).zero_()
    memory.store("y", torch.ones(3, 2))
    assert memory.moved == {"load x": 10, "store y": 6}
    assert memory.total == 16
    assert memory.matrices["x"].sum() == 45
    assert memory.matrices["y"].sum() == 6


def test_elementwise_work_is_counted_by_operator_in_place_or_not():
    x = torch.ones(7)
    with Meter() as meter:
        x * 2
        x / 3
        x.mul_(4)
    assert meter.made["mul"] == 14
    assert meter.made["div"] == 7


def test_the_peak_is_what_is_alive_at_once_not_what_was_made_in_all():
    with Meter() as meter:
        for _ in range(5):
            torch.zeros(1000)
    assert meter.peak_bytes <= 2 * 4000
    with Meter() as meter:
        held = [torch.zeros(1000) for _ in range(5)]
    assert meter.peak_bytes == 4000 * len(held)


def test_a_view_counts_once():
    with Meter() as meter:
        x = torch.zeros(100)
        views = [x[:50], x.view(10, 10), x[None]]
    assert meter.peak_bytes == 400
    assert len(views) == 3


def test_the_backward_pass_is_counted_too():
    weight, x = torch.ones(5, 6, requires_grad=True), torch.ones(4, 5)
    assert flops_of(torch.matmul, x, weight) == 2 * 4 * 5 * 6
    assert flops_of(lambda: (x @ weight).sum().backward()) == 2 * 2 * 4 * 5 * 6
    with Meter() as meter:
        (x @ weight).sum().backward()
    assert meter.made["mm"] == 4 * 6 + 5 * 6


def test_the_least_time_of_some_runs_comes_back_in_seconds():
    calls = []
    seconds = seconds_of(calls.append, 1, repeats=3)
    assert len(calls) == 4
    assert 0 <= seconds < 1
