import pytest
import torch

from grader.policy import Forbidden, scan, withhold

SOFTMAX = ("torch.softmax", "torch.Tensor.softmax", "torch.nn.functional.softmax")


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return torch.softmax(x, -1)",
        "def f(x): return x.softmax(-1)",
        "def f(x): return (x + 1).softmax(-1)",
        "def f(x): return F.softmax(x, -1)",
        "from torch.nn.functional import softmax\ndef f(x): return softmax(x, -1)",
        "import torch.nn.functional as G\ndef f(x): return G.softmax(x, -1)",
        "from torch import softmax as s\ndef f(x): return s(x, -1)",
        "def f(x): return torch.nn.functional.softmax(x, -1)",
        "def f(x): return getattr(torch, 'softmax')(x, -1)",
        "def f(x): return torch.Tensor.softmax(x, -1)",
        "import llmcore.attention\ndef f(x): return llmcore.attention.softmax(x)",
        "from llmcore.attention import reference\ndef f(x): return x",
    ],
)
def test_each_disguise_of_a_forbidden_routine_is_found(source):
    assert scan(source, SOFTMAX)


@pytest.mark.parametrize(
    "source",
    [
        "def softmax(x): return x\ndef f(x): return softmax(x)",
        "def f(x): return x.exp() / x.exp().sum()",
        "def f(softmax): return softmax + 1",
        "def f(x):\n    'as torch.softmax does'\n    return x",
        "this is no Python",
    ],
)
def test_honest_sources_are_left_alone(source):
    assert scan(source, SOFTMAX) == []


def test_methods_of_builtin_types_are_found_by_reading():
    assert scan("def f(c): return chr(c).encode('utf-8')", ("str.encode",))
    assert scan("def f(d): return bytes.decode(d)", ("bytes.decode",))
    assert scan("def f(c): return bytes('%c' % c, 'utf-8')", ("str.encode",))
    assert scan("def f(d): return str(d, encoding='utf-8')", ("bytes.decode",))
    assert not scan("def f(d): return str(d) + bytes([1]).hex()", ("str.encode", "bytes.decode"))
    assert scan("def f(c): return chr(c)", ("chr",))
    assert not scan("def chr(c): return c\ndef f(c): return chr(c)", ("chr",))


def test_withheld_names_raise_and_come_back():
    x = torch.randn(3)
    before = torch.softmax(x, -1)
    with withhold(SOFTMAX):
        for call in (lambda: torch.softmax(x, -1), lambda: x.softmax(-1), lambda: torch.nn.functional.softmax(x, -1)):
            with pytest.raises(Forbidden, match="is withheld"):
                call()
        with pytest.raises(ImportError):
            import llmcore
    assert torch.equal(torch.softmax(x, -1), before)
    assert "softmax" not in vars(torch.Tensor)
    import llmcore

    assert llmcore.__name__ == "llmcore"


def test_withholding_may_be_entered_again():
    withheld = withhold(SOFTMAX)
    for _ in range(2):
        with withheld, pytest.raises(Forbidden):
            torch.softmax(torch.zeros(2), -1)
    assert torch.softmax(torch.zeros(2), -1).tolist() == [0.5, 0.5]


def test_a_withheld_class_stays_a_class():
    with withhold(("torch.nn.RMSNorm",)):
        assert isinstance(torch.nn.RMSNorm, type)
        with pytest.raises(Forbidden):
            torch.nn.RMSNorm(3)
    assert torch.nn.RMSNorm(3).weight.shape == (3,)


def test_machinery_of_torch_is_found_by_reading_and_never_replaced():
    assert scan("def f(x): return torch.ops.aten.softmax(x, -1)", ("torch.ops",))
    assert scan("def f(x): return torch._C._nn.scaled_dot_product_attention(x, x, x)", ("torch._C",))
    before = torch.ops, torch._C
    with withhold(("torch.ops", "torch._C")):
        assert (torch.ops, torch._C) == before
        assert torch.ones(2).sum() == 2
