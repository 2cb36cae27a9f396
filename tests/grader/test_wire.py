import json
import math
import struct
from collections import Counter, OrderedDict, namedtuple

import numpy as np
import pytest
import torch

from grader import wire
from grader.exercise import Code
from grader.wire import Caps, Handle, ProtocolError, WireError, encode, read

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def there_and_back(x):
    return read(b"".join(encode("call", "n", {"x": x}))).body["x"]


def frame(header: bytes, *buffers: bytes) -> bytes:
    """A frame as an attacker would write it, header and buffers as given."""
    return (
        struct.pack(f"!II{len(buffers)}I", len(header), len(buffers), *map(len, buffers)) + header + b"".join(buffers)
    )


def message(tree: str, *buffers: bytes) -> bytes:
    return frame(f'{{"kind":"k","nonce":"n","body":["d",["x",{tree}]]}}'.encode(), *buffers)


@pytest.mark.parametrize(
    "x",
    [
        *(
            None,
            True,
            False,
            0,
            -1,
            2**53,
            -(2**63),
            10**300,
            1.5,
            -0.0,
            1e-320,
            "",
            "a",
            "\u00e9\U0001f600",
            "\ud83d\ude00"[:1],
        ),
        *(
            "\ud83d" + "\ude00",
            "x" * 1000,
            b"",
            b"\x00\xff",
            bytearray(b"ab"),
            1 + 2j,
            [],
            (),
            {},
            set(),
            frozenset({1}),
        ),
        *(
            [1, [2.0, (None, "t")]],
            {"a": 1, 2: "b", (1, b"x"): [True], None: 0.5, 1.25: {}},
            {(b"a", b"b"): 3},
            list(range(500)),
        ),
        *(torch.float16, torch.device("cpu"), Handle(7, "Linear"), Code("def make(n):\n    return n", (3, "a"))),
    ],
    ids=lambda x: f"{type(x).__name__}-{str(x)[:12]}".encode("ascii", "replace").decode(),
)
def test_plain_values_arrive_as_they_were(x):
    y = there_and_back(x)
    assert type(y) is type(x)
    assert y == x
    if isinstance(x, float):
        assert math.copysign(1, x) == math.copysign(1, y)


def test_a_pair_of_lone_surrogates_does_not_become_one_character():
    assert len(there_and_back("\ud83d" + "\ude00")) == 2


def test_bool_and_int_and_float_keep_their_types():
    assert [type(v) for v in there_and_back([True, 1, 1.0])] == [bool, int, float]


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_special_floats_arrive(x):
    y = there_and_back({"v": [x]})["v"][0]
    assert y == x or (math.isnan(x) and math.isnan(y))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, torch.bool, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 5)], ids=str)
def test_tensors_of_every_dtype_and_shape_arrive_bit_by_bit(dtype, shape):
    x = torch.randint(0, 2, shape).to(dtype)
    y = there_and_back(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    assert torch.equal(y.reshape(-1).view(torch.uint8), x.reshape(-1).view(torch.uint8))


def test_nan_and_infinity_inside_a_tensor_arrive():
    x = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert torch.equal(there_and_back(x).view(torch.int32), x.view(torch.int32))


def test_views_arrive_contiguous_and_without_gradient():
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    for view in (x.T, x[:, 1::2], x[0].expand(5, 4)):
        y = there_and_back(view)
        assert torch.equal(y, view.detach())
        assert y.is_contiguous()
        assert not y.requires_grad


def test_a_view_of_one_item_with_a_wide_stride_arrives():
    assert there_and_back(torch.arange(6.0)[4::5]).tolist() == [4]


def test_a_received_tensor_can_be_written_and_shares_nothing():
    x = torch.zeros(3)
    pair = there_and_back((x, x))
    pair[0].add_(1)
    assert pair[1].tolist() == [0, 0, 0]
    assert x.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", sorted(wire._ARRAY_DTYPES))
def test_numpy_arrays_and_scalars_stay_numpy(name):
    x = np.asfortranarray(np.arange(6).reshape(2, 3) % 2).astype(name)
    y, scalar = there_and_back((x, x[1, 0]))
    assert y.dtype == x.dtype
    assert (y == x).all()
    assert type(scalar) is type(x[1, 0])
    assert scalar == x[1, 0]


def test_byte_order_is_not_lost():
    assert there_and_back(np.array([1, 2], dtype=">i4")).tolist() == [1, 2]


def test_conjugate_and_negative_views_arrive_resolved():
    x = torch.tensor([1 + 2j]).conj()
    assert there_and_back((x, x.imag))[0].tolist() == [1 - 2j]
    assert there_and_back(x.imag).tolist() == [-2]


class _LyingList(list):
    def __iter__(self):
        return iter([9, 9])

    def __len__(self):
        return 99

    def __getitem__(self, i):
        return 9

    def __eq__(self, other):
        return True

    __hash__ = None


class _LyingDict(dict):
    def items(self):
        return [("x", 1)]

    def __iter__(self):
        return iter("x")


class _LyingTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return torch.ones(2)

    def __array__(self, *args):
        return np.ones(2)


class _LyingArray(np.ndarray):
    def tobytes(self, *args):
        return b"\xff" * 16

    def __array_ufunc__(self, *args, **kwargs):
        return 1

    def astype(self, *args, **kwargs):
        return np.ones(2)


class _LyingInt(int):
    def __add__(self, other):
        return 9

    __index__ = __int__ = __radd__ = __neg__ = __add__


class _LyingStr(str):
    def encode(self, *args):
        return b"9"

    def __str__(self):
        return "9"

    def __iter__(self):
        return iter("9")


class _LyingFloat(float):
    def __float__(self):
        return 9.0

    def __format__(self, spec):
        return "9"


@pytest.mark.parametrize(
    ("x", "held"),
    [
        (_LyingList([1, 2]), [1, 2]),
        (_LyingDict(a=2), {"a": 2}),
        (_LyingInt(3), 3),
        (_LyingFloat(3.0), 3.0),
        (_LyingStr("true"), "true"),
        (_LyingStr("true" * 100), "true" * 100),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(b=1), {"b": 1}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
        (torch.Size([2, 3]), (2, 3)),
    ],
    ids=lambda x: type(x).__name__,
)
def test_subclasses_are_sent_as_what_they_hold(x, held):
    y = there_and_back(x)
    assert type(y) is type(held)
    assert y == held


def test_lying_tensors_and_arrays_are_sent_as_their_bytes():
    assert there_and_back(torch.zeros(2).as_subclass(_LyingTensor)).tolist() == [0, 0]
    assert there_and_back(np.zeros(2).view(_LyingArray)).tolist() == [0, 0]
    assert there_and_back(torch.nn.Parameter(torch.zeros(2))).tolist() == [0, 0]


def test_an_object_is_refused_or_kept_as_a_handle():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(WireError, match="Linear cannot be sent as data; wrap it in Code"):
        encode("call", "n", {"x": module})
    kept = []

    def keep(value):
        kept.append(value)
        return Handle(len(kept) - 1, type(value).__name__)

    back = read(b"".join(encode("answer", "n", {"x": [module, 1]}, keep=keep))).body["x"]
    assert back == [Handle(0, "Linear"), 1]
    assert kept == [module]


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(2).to_sparse(), "cannot be sent"),
        (torch.zeros(2, device="meta"), "cannot be sent"),
        (np.array([object()]), "cannot be sent"),
        (np.array(["text"]), "cannot be sent"),
        (1 << 200_000, "hexadecimal digits"),
        ({torch.zeros(1): 1}, "keys are tensors"),
        (torch.zeros(1).expand(1 << 40), "MiB"),
    ],
    ids=lambda x: str(type(x).__name__),
)
def test_the_encoder_says_what_it_cannot_send(x, match):
    with pytest.raises(WireError, match=match):
        encode("call", "n", {"x": x})


def test_the_encoder_counts_items_depth_and_bytes():
    small = Caps(nodes=100, depth=5, total_bytes=1000, header_bytes=2000, buffers=3)
    deep = []
    for _ in range(10):
        deep = [deep]
    loop = []
    loop.append(loop)
    for x in ([0] * 200, ["a"] * 200, deep, loop, b"x" * 2000, [b"x"] * 5, ["y" * 100] * 30):
        with pytest.raises(WireError):
            encode("call", "n", {"x": x}, caps=small)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!II", 0xFFFFFFFF, 0),
        struct.pack("!II", 0, 0),
        struct.pack("!II", 100, 0xFFFFFFFF),
        struct.pack("!II2I", 10, 2, 0xFFFFFFFF, 0xFFFFFFFF),
    ],
    ids=["4 GB header", "empty header", "4 G buffers", "8 GB of buffers"],
)
def test_sizes_are_refused_before_anything_is_allocated(data):
    with pytest.raises(ProtocolError) as caught:
        read(data)
    assert caught.value.too_big


@pytest.mark.parametrize(
    "data",
    [
        frame(b"\x80\x04K\x01."),
        frame(b"null"),
        frame(b"[]"),
        frame(b'{"kind":"k","nonce":"n"}'),
        frame(b'{"kind":"k","nonce":"n","body":["d"],"more":1}'),
        frame(b'{"kind":"k","nonce":"n","nonce":"m","body":["d"]}'),
        frame(b'{"kind":1,"nonce":"n","body":["d"]}'),
        frame(b'{"kind":"k","nonce":"n","body":["l"]}'),
        frame(b'{"kind":"k","nonce":"n","body":["d",[1,2]]}'),
        frame('{"kind":"k","nonce":"n","body":["d"]}'.encode("utf-16")),
        frame(b'{"kind":"k","nonce":"n","body":["d"]}', b"left over"),
        frame(b'{"kind":"k","nonce":"n","body":["d"]}') + b"x",
        frame(b'{"kind":"k","nonce":"n","body":["d"]}')[:-1],
        *map(
            message,
            [
                *(
                    "NaN",
                    "Infinity",
                    "1e999",
                    "9" * 4000,
                    "{}",
                    '{"a":1}',
                    "[]",
                    '["?"]',
                    "[1]",
                    '["l",["?"]]',
                    '["s"]',
                    '["x"]',
                ),
                *(
                    '["x","float32",2]',
                    '["f","nan","nan"]',
                    '["f","1"]',
                    '["f",[]]',
                    '["i","zz"]',
                    '["i",5]',
                    '["i","0x1"]',
                    '["i",""]',
                ),
                *(
                    '["c",1,2]',
                    '["h",-1,"a"]',
                    '["h",1]',
                    '["h","1","a"]',
                    '["code","x",1]',
                    '["code",1,["t"]]',
                    '["dtype","os"]',
                ),
                *(
                    '["device","nowhere"]',
                    '["d",["a",1],["a",2]]',
                    '["d",["a"]]',
                    '["d",[["l"],1]]',
                    '["S",1,1]',
                    '["S",["l"]]',
                    '"\\ud800',
                ),
            ],
        ),
    ],
    ids=str,
)
def test_malformed_frames_are_refused(data):
    with pytest.raises(ProtocolError):
        read(data)


@pytest.mark.parametrize(
    ("tree", "buffer"),
    [
        ('["x","float32",1000000000]', bytes(8)),
        ('["x","float32",-2]', bytes(8)),
        ('["x","float32",2.0]', bytes(8)),
        ('["x","float32",true]', bytes(4)),
        ('["x","float32",' + ",".join(["1"] * 40) + "]", bytes(4)),
        ('["x","float32",1099511627776,1099511627776]', bytes(8)),
        ('["x","object",2]', bytes(16)),
        ('["x",["l"],2]', bytes(16)),
        ('["x","bool",2]', b"\x01\x02"),
        ('["a","bool",2]', b"\x01\x02"),
        ('["a","object",1]', bytes(8)),
        ('["n","float64"]', bytes(4)),
        ('["n","float64",1]', bytes(8)),
        ('["s"]', b"\xff\xfe"),
        ('["s",1]', b"a"),
    ],
)
def test_buffers_must_be_what_the_header_says(tree, buffer):
    with pytest.raises(ProtocolError):
        read(message(tree, buffer))


def test_a_buffer_serves_one_value_only():
    with pytest.raises(ProtocolError, match="fewer buffers"):
        read(message('["l",["b"],["b"]]', b"a"))


@pytest.mark.parametrize("depth", [100, 10_000, 1_000_000])
def test_depth_is_refused_without_a_stack_overflow(depth):
    with pytest.raises(ProtocolError) as caught:
        read(message('["l",' * depth + "1" + "]" * depth))
    assert caught.value.too_big


def test_many_items_are_refused_before_parsing():
    with pytest.raises(ProtocolError, match="too many items"):
        read(message('["l",' + ",".join(["[]"] * 1_000_000) + "]"))


def test_keys_made_to_collide_are_refused_quickly():
    # hash(-1) == hash(-2), so every one of these 4,096 tuples has the same hash.
    keys = [["t", *(-1 - (n >> bit & 1) for bit in range(12))] for n in range(4096)]
    tree = json.dumps(["d", *([key, 0] for key in keys)])
    with pytest.raises(ProtocolError, match="same hash"):
        read(message(tree))


def test_honest_keys_of_the_same_form_pass():
    x = {(a, b): a * b for a in range(-40, 40) for b in range(-40, 40)}
    assert there_and_back(x) == x
