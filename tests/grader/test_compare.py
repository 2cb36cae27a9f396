import math

import numpy as np
import pytest
import torch

from grader.compare import brief, difference
from grader.exercise import Close


@pytest.mark.parametrize(
    ("got", "want"),
    [
        ([1, 2], (1, 2)),
        (np.int64(3), 3),
        (torch.tensor(3), 3),
        (3, 3.0),
        (np.float32(0.5), 0.5),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan])),
        (torch.tensor(math.inf), torch.tensor(math.inf)),
        (-math.inf, -math.inf),
        (bytearray(b"ab"), b"ab"),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
        (torch.zeros(0, 3), torch.zeros(0, 3)),
        (None, None),
        ("\ud800", "\ud800"),
    ],
)
def test_equal_values_have_no_difference(got, want):
    assert difference(got, want) is None


@pytest.mark.parametrize(
    ("got", "want", "kind"),
    [
        (True, 1, "type"),
        (1, True, "type"),
        (3.0, 3, "type"),
        ("1", 1, "type"),
        (None, 0.0, "type"),
        (0, None, "type"),
        (np.zeros(2), torch.zeros(2), "type"),
        ([0.0, 0.0], torch.zeros(2), "type"),
        (b"a", "a", "type"),
        (torch.zeros(2, 3), torch.zeros(3, 2), "shape"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "dtype"),
        (torch.tensor([math.nan]), torch.tensor([0.0]), "nan"),
        (torch.tensor([0.0]), torch.tensor([math.nan]), "nan"),
        (torch.tensor([math.inf]), torch.tensor([3e38]), "value"),
        (torch.tensor([1.0]), torch.tensor([math.inf]), "value"),
        (math.nan, 1.0, "nan"),
        (math.inf, 1e308, "value"),
        (10**400, 1.0, "value"),
        ([1], [1, 2], "length"),
        ([1, 2, 3], [1, 2], "length"),
        ({"a": 1}, {"b": 1}, "keys"),
        ({1: 2}, {1: 3}, "value"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "value"),
        (object(), 1, "type"),
    ],
)
def test_what_differs_is_named(got, want, kind):
    assert difference(got, want).kind == kind


def test_the_tolerance_follows_the_wanted_dtype():
    one = torch.ones(3, dtype=torch.float64)
    assert difference(one + 1e-10, one) is None
    assert difference(one + 1e-7, one).kind == "value"
    assert difference((one + 1e-7).float(), one.float()) is None
    assert difference(one + 1e-3, one, Close(rtol=1e-2)) is None


def test_a_place_in_nested_containers_is_named():
    assert difference([(1, {"x": 2})], [(1, {"x": 3})]).message == "at [0][1]['x']: got 2, want 3"


def test_brief_never_exceeds_its_limit_and_never_fails():
    class Bad:
        def __repr__(self):
            raise RuntimeError

    for value in (
        torch.arange(1000.0),
        "x" * 10_000,
        list(range(10_000)),
        10**5000,
        dict.fromkeys(range(99), "y" * 50),
        Bad(),
        math.pi,
    ):
        assert len(brief(value, 100)) <= 100
