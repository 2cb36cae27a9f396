"""Requests to the Triton attention kernels, in groups, and how far one is from float64. For the interpreter and for GPUs alike."""

from dataclasses import dataclass, field, replace

import torch
from attention_oracle import oracle
from torch import Tensor

from llmcore.attention import flash_attention, reference
from llmcore.attention.kernel_configs import Tiles, use_tiles

# Relative distance of norms. Rounding gives 1e-7 to 5e-7 in float32 and half a unit in the last place, some of it twice,
# in the half types; the gentlest mutant (a key too many at the end of a window) is off by more than 1e-3.
BOUNDS = {"float32": 3e-6, "float16": 1.5e-3, "bfloat16": 8e-3}
ORACLE_PAIRS = 2**15


@dataclass(frozen=True)
class Case:
    """One request. `tiles` None takes the table's sizes."""

    group: str
    batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    t_q: int = 40
    t_k: int | None = None
    d: int = 16
    d_v: int | None = None
    options: tuple[tuple[str, object], ...] = ()
    borders: tuple[int, ...] | None = None
    tiles: Tiles | None = field(default_factory=lambda: Tiles(16, 16))
    dtype: str = "float32"
    layout: str = "plain"
    large: float = 1.0

    def __str__(self) -> str:
        shape = (
            f"{self.batch}x{self.heads}/{self.kv_heads}x{self.t_q}/{self.t_k or self.t_q}x{self.d}/{self.d_v or self.d}"
        )
        extra = [f"{name}={value}" for name, value in self.options]
        extra += [] if self.borders is None else ["borders=" + "-".join(map(str, self.borders))]
        extra += [] if self.layout == "plain" else [self.layout]
        extra += [] if self.dtype == "float32" else [self.dtype]
        if self.tiles is not None:
            extra.append(f"{self.tiles.block_q}x{self.tiles.block_k}{'tma' * self.tiles.tma}")
        return " ".join([self.group, shape, *extra])


def case(group: str, **what: object) -> Case:
    """A Case; what is no field of it is an option of the request."""
    names = Case.__dataclass_fields__
    options = tuple((name, value) for name, value in what.items() if name not in names)
    return Case(group, options=options, **{name: value for name, value in what.items() if name in names})


def _grid() -> list[Case]:
    cases = []
    for t_q, t_k in ((1, 1), (15, 16), (17, 17), (33, 47), (47, 33)):
        cases += [case("lengths", t_q=t_q, t_k=t_k, causal=causal) for causal in (False, True)]
    cases.append(case("lengths", t_q=33, t_k=33, batch=2, causal=True))
    for heads, kv_heads in ((4, 4), (4, 2), (6, 2), (3, 1)):
        cases.append(case("grouped heads", heads=heads, kv_heads=kv_heads, t_q=20, t_k=27, causal=True))
    for window in (0, 1, 15, 16, 17, 100):
        cases.append(case("window", window=window, causal=True, t_q=37, t_k=37))
    cases += [
        case("window", window=5, t_q=37, t_k=37),
        case("window", window=18, causal=True, t_q=20, t_k=50),
        case("window", window=18, causal=True, t_q=50, t_k=20),
        case("window", window=20, t_q=50, t_k=37),
    ]
    for borders in ((0, 40), (0, 3, 20, 40), (0, 16, 32, 40), (0, 0, 5, 5, 40, 40)):
        cases += [case("documents", borders=borders, causal=causal) for causal in (False, True)]
    cases.append(case("documents", borders=(0, 17, 40), causal=True, window=6, batch=2, softcap=1.5))
    cases += [
        case("soft-cap", softcap=0.7, t_q=33),
        case("soft-cap", softcap=30.0, causal=True, t_q=33),
        case("soft-cap", softcap=0.7, causal=True, t_q=20, t_k=40, window=9, heads=4, kv_heads=2),
        case("soft-cap", softcap=2.0, t_q=20, large=50.0),
    ]
    for d, d_v in ((1, 3), (16, 16), (24, 40), (72, 72), (80, 80), (96, 64), (192, 128), (256, 256)):
        cases.append(case("widths", d=d, d_v=d_v, t_q=18, t_k=21, causal=True, tiles=Tiles(16, 32)))
    cases += [
        case("rows that see nothing", t_q=50, t_k=20, causal=True),
        case("rows that see nothing", t_q=50, t_k=20, causal=True, window=3, d=24),
        case("rows that see nothing", t_q=33, t_k=1, causal=True, softcap=1.0),
    ]
    for t_q, heads, options in (
        (1, 2, {"causal": True}),
        (1, 6, {"causal": True, "window": 40}),
        (4, 2, {"causal": True}),
        (3, 2, {"causal": True, "window": 2, "softcap": 1.0}),
        (2, 2, {}),
    ):
        cases.append(
            case(
                "decode",
                t_q=t_q,
                t_k=70,
                heads=heads,
                kv_heads=2 if t_q < 3 else 1,
                batch=2 if t_q == 2 else 1,
                **options,
            )
        )
    cases.append(case("decode", t_q=1, t_k=77, heads=2, kv_heads=2, d=24, d_v=40, scale=-0.2))
    for tiles in (Tiles(16, 32), Tiles(32, 16), Tiles(16, 16, tma=True), Tiles(32, 64, tma=True), None):
        cases.append(case("tiles", t_q=70, t_k=50, d=24, causal=True, window=33, tiles=tiles))
    cases += [
        case("numbers", scale=0.3, t_q=20),
        case("numbers", scale=-0.3, t_q=20, causal=True),
        case("numbers", scale=0.0, t_q=20, causal=True),
        case("numbers", t_q=20, large=300.0, causal=True),
        case("strides", layout="model", batch=2, heads=4, kv_heads=2, t_q=20, causal=True),
        case("strides", layout="expanded", heads=2, kv_heads=2, t_q=20),
        case("strides", layout="transposed", t_q=20),
        case("strides", layout="model", t_q=20, causal=True, tiles=Tiles(16, 16, tma=True)),
    ]
    for dtype in ("float16", "bfloat16"):
        cases += [
            case("half types", dtype=dtype, t_q=40, causal=True),
            case("half types", dtype=dtype, t_q=20, t_k=45, heads=4, kv_heads=2, d=24, window=20, softcap=2.0),
            case("half types", dtype=dtype, t_q=1, t_k=70, causal=True),
        ]
    return cases


CASES = _grid()
BFLOAT16_CASES = [replace(one, group="mended bfloat16") for one in CASES if one.dtype == "bfloat16"]


def inputs(one: Case, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Leaves q, k, v."""
    generator = torch.Generator().manual_seed(0)
    t_k, d_v, dtype = one.t_k or one.t_q, one.d_v or one.d, getattr(torch, one.dtype)
    made = []
    for heads, tokens, width, factor in (
        (one.heads, one.t_q, one.d, one.large**0.5),
        (one.kv_heads, t_k, one.d, one.large**0.5),
        (one.kv_heads, t_k, d_v, 1.0),
    ):
        shape = (one.batch, tokens, heads, width) if one.layout == "model" else (one.batch, heads, tokens, width)
        x = (torch.randn(shape, generator=generator, dtype=torch.float64) * factor).to(device, dtype)
        if one.layout == "model":
            x = x.transpose(1, 2)
        elif one.layout == "transposed":
            x = x.mT.contiguous().mT
        elif one.layout == "expanded":
            x = x[:, :1].expand(-1, heads, -1, -1)
        made.append(x.detach().requires_grad_())
    return tuple(made)


def wanted(one: Case, qkv: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(out, lse) in float64: query by query where that is quick, else by the formula."""
    options = dict(one.options)
    if one.batch * one.heads * one.t_q * (one.t_k or one.t_q) <= ORACLE_PAIRS and qkv[0].device.type == "cpu":
        return oracle(*qkv, borders=None if one.borders is None else list(one.borders), **options)
    mask = None
    if one.borders is not None:
        document = torch.bucketize(torch.arange(one.t_q), torch.tensor(one.borders), right=True).to(qkv[0].device)
        mask = document[:, None] == document
    return reference.attention_with_lse(*(x.double() for x in qkv), mask=mask, **options)


def computed(one: Case, qkv: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """(out, lse) by the kernels."""
    borders = None if one.borders is None else torch.tensor(one.borders, device=qkv[0].device)
    return flash_attention(*qkv, cu_seqlens=borders, backend="triton", return_lse=True, **dict(one.options))


def gradients(pair: tuple[Tensor, Tensor], qkv: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Gradients of q, k and v for the same random gradients of out (rounded to `dtype`) and lse."""
    generator = torch.Generator().manual_seed(1)
    out, lse = pair
    d_out = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype)
    d_lse = torch.randn(lse.shape, generator=generator, dtype=torch.float32)
    d_lse = torch.where(lse.detach().cpu() == -torch.inf, 0, d_lse)
    return torch.autograd.grad(pair, qkv, (d_out.to(out.device, out.dtype), d_lse.to(lse.device, lse.dtype)))


def distance(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted, infinite where one is infinite or NaN and the other not."""
    got, want = got.detach().double(), want.detach().double()
    finite = want.isfinite()
    if not torch.equal(got.isfinite(), finite) or not torch.equal(got[~finite], want[~finite]):
        return float("inf")
    size = max(want[finite].norm().item(), 1e-2 * max(want.numel(), 1) ** 0.5)
    return (got[finite] - want[finite]).norm().item() / size


def measure(one: Case, device: str = "cpu", enough: float = float("inf")) -> dict[str, float]:
    """Distances of out, lse, d_q, d_k and d_v from float64; rows that see nothing must be exactly 0 and -inf.

    Without gradients once out or lse is further off than `enough`.
    """
    qkv = inputs(one, device)
    want = wanted(one, qkv)
    with use_tiles(one.tiles):
        got = computed(one, qkv)
        found = {"out": distance(got[0], want[0]), "lse": distance(got[1], want[1])}
        empty = want[1] == -torch.inf
        found["rows that see nothing"] = 0.0 if got[0][empty].eq(0).all() else float("inf")
        if max(found.values()) > enough:
            return found
        got_gradients = gradients(got, qkv, qkv[0].dtype)
    want_gradients = gradients(want, qkv, qkv[0].dtype)
    for name, have, wants in zip(("d_q", "d_k", "d_v"), got_gradients, want_gradients):
        found[name] = distance(have, wants)
    return found


def bound(one: Case) -> float:
    """The distance that a case may have: a capped tanh cancels a few bits, and large scores have few after the point."""
    return BOUNDS[one.dtype] * max(5.0 if "softcap" in dict(one.options) else 1.0, one.large / 20)
