"""The strict data format between the judge and the sandbox: frames of plain data, never objects.

A frame is `u32 header bytes, u32 number of buffers, u32 size of each buffer`, big-endian, then a JSON header in ASCII and the raw
buffers. The header is `{"kind", "nonce", "body"}`; `body` is a tree in which JSON null, booleans, numbers and short strings stand for
themselves and every array starts with a tag (`"l"` list, `"x"` tensor, ...). Tags that need raw bytes take the next buffer in order.

The decoder trusts nothing: it checks every size and count against `Caps` before it allocates, and anything that is not exactly
what the encoder writes is a `ProtocolError`. The encoder reads objects through base-class methods captured at import, so a
subclass that lies about its length, items or bytes is sent as what it holds. That is a courtesy to the judge's messages, not a
defence: what the sandbox sends is data, and only its values are judged.

What is not kept: aliasing (two arguments that share storage arrive apart), strides (tensors and arrays arrive contiguous),
`requires_grad`, subclasses (a `Counter` arrives as a dict, a namedtuple as a tuple), the payload of a NaN.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grader.exercise import Code


class WireError(ValueError):
    """An object cannot be sent as data."""


class ProtocolError(ValueError):
    """What arrived is not a frame of this format. `too_big` tells a broken cap from a malformed frame."""

    def __init__(self, message: str, *, too_big: bool = False) -> None:
        super().__init__(message)
        self.too_big = too_big


@dataclass(frozen=True)
class Caps:
    """How much one frame may hold. Checked by the decoder before it allocates, and by the encoder before it sends."""

    header_bytes: int = 8 << 20
    total_bytes: int = 64 << 20
    buffers: int = 20_000
    nodes: int = 400_000
    depth: int = 64


DEFAULT_CAPS = Caps()


@dataclass(frozen=True)
class Handle:
    """An object that stays in the sandbox: a module, a generator, a tokenizer. It lives as long as its session."""

    id: int
    type_name: str


@dataclass(frozen=True)
class Message:
    """One decoded frame."""

    kind: str
    nonce: str
    body: dict[str, Any]


_SMALL_INT = 1 << 53
_INT_DIGITS = 20_000
_HEXADECIMAL = re.compile("-?[0-9a-f]+")
_SHORT_STR = 120
_MAX_DIMS = 32
_SPECIAL_FLOATS = ("nan", "inf", "-inf")
_MAX_EQUAL_HASHES = 64
"""Keys of one dict or set whose hashes are equal. More is an attack on the judge's time: building would be quadratic."""

_TENSOR_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
        *(torch.bool, torch.complex64, torch.complex128),
    )
}
_TENSOR_NAMES = {dtype: name for name, dtype in _TENSOR_DTYPES.items()}
_ARRAY_DTYPES = {
    np.dtype(name).name: np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "complex64", "complex128", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
}

# Base-class methods, captured before any learner's code can patch them.
_list_iter, _tuple_iter, _dict_items = list.__iter__, tuple.__iter__, dict.items
_set_iter, _frozenset_iter = set.__iter__, frozenset.__iter__
_detach, _as_subclass = torch.Tensor.detach, torch.Tensor.as_subclass
_array_bytes, _array_astype = np.ndarray.tobytes, np.ndarray.astype
_array_dtype, _array_shape = np.ndarray.dtype.__get__, np.ndarray.shape.__get__  # type: ignore[attr-defined]


class _Encoder:
    """Turns objects into a tree for the header and a list of buffers."""

    def __init__(self, caps: Caps, keep: Callable[[Any], Handle] | None) -> None:
        self.caps, self.keep = caps, keep
        self.buffers: list[bytes] = []
        self.nodes = 0
        self.bytes = 0

    def add(self, raw: bytes) -> None:
        self.reserve(len(raw))
        self.buffers.append(raw)
        if len(self.buffers) > self.caps.buffers:
            raise WireError(f"more than {self.caps.buffers} tensors or long strings in one message")

    def reserve(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self.caps.total_bytes:
            raise WireError(f"more than {self.caps.total_bytes >> 20} MiB in one message")

    def count(self, items: int) -> None:
        self.nodes += items
        if self.nodes > self.caps.nodes:
            raise WireError(f"more than {self.caps.nodes} items in one message")

    def value(self, x: Any, depth: int = 0) -> Any:
        self.count(1)
        if depth > self.caps.depth:
            raise WireError(f"nested deeper than {self.caps.depth} levels")
        kind = type(x)
        if x is None or kind is bool:
            return x
        if issubclass(kind, int):
            return self.integer(x)
        if issubclass(kind, float):  # numpy.float64 is a subclass: it is marked as NumPy's
            return self.scalar(x) if issubclass(kind, np.generic) else self.real(x)
        if issubclass(kind, str):
            return self.text(x)
        if issubclass(kind, torch.Tensor):
            return self.tensor(x)
        if issubclass(kind, list):
            return self.items("l", list(_list_iter(x)), depth)
        if issubclass(kind, tuple):
            return self.items("t", list(_tuple_iter(x)), depth)
        if issubclass(kind, dict):
            return ["d", *([self.key(k, depth + 1), self.value(v, depth + 1)] for k, v in list(_dict_items(x)))]
        return self.rarer(x, kind, depth)

    def key(self, x: Any, depth: int) -> Any:
        if issubclass(type(x), (torch.Tensor, np.ndarray)):
            raise WireError("a dict whose keys are tensors or arrays")
        return self.value(x, depth)

    def rarer(self, x: Any, kind: type, depth: int) -> Any:
        if issubclass(kind, (bytes, bytearray)):
            self.add(bytes.join(b"", (x,)) if issubclass(kind, bytes) else bytes(bytearray.__getitem__(x, slice(None))))
            return ["b" if issubclass(kind, bytes) else "ba"]
        if issubclass(kind, set):
            return self.items("S", list(_set_iter(x)), depth)
        if issubclass(kind, frozenset):
            return self.items("F", list(_frozenset_iter(x)), depth)
        if issubclass(kind, complex) and not issubclass(kind, np.generic):
            return ["c", self.real(complex.real.__get__(x)), self.real(complex.imag.__get__(x))]
        if issubclass(kind, np.ndarray):
            return self.array(x)
        if issubclass(kind, np.generic) and x.dtype.name in _ARRAY_DTYPES:
            return self.scalar(x)
        if kind is torch.dtype:
            return ["dtype", str(x).removeprefix("torch.")]
        if kind is torch.device:
            return ["device", str(x)]
        if kind is Code:
            return ["code", self.text(x.source), self.value(tuple(x.args), depth + 1)]
        return self.handle(x)

    def handle(self, x: Any) -> Any:
        if type(x) is not Handle:
            if self.keep is None:
                raise WireError(f"a {type(x).__name__} cannot be sent as data; wrap it in Code")
            x = self.keep(x)
        return ["h", x.id, self.text(x.type_name[:200])]

    def items(self, tag: str, items: list[Any], depth: int) -> list[Any]:
        if self.nodes + len(items) > self.caps.nodes:
            self.count(len(items))  # refused at once, not after half of the work
        if all(type(i) is int and -_SMALL_INT < i < _SMALL_INT for i in items):  # token ids: no call per item
            self.count(len(items))
            return [tag, *items]
        return [tag, *(self.value(i, depth + 1) for i in items)]

    def integer(self, x: int) -> Any:
        x = int.__add__(x, 0)
        if -_SMALL_INT < x < _SMALL_INT:
            return x
        if x.bit_length() > 4 * _INT_DIGITS:
            raise WireError(f"an integer of more than {_INT_DIGITS} hexadecimal digits")
        return ["i", format(x, "x")]

    def real(self, x: float) -> Any:
        x = float.__float__(x)
        if math.isfinite(x):
            return x
        return ["f", "nan" if math.isnan(x) else "inf" if x > 0 else "-inf"]

    def text(self, x: str) -> Any:
        x = str.__str__(x)
        if len(x) <= _SHORT_STR and not any("\ud800" <= c <= "\udfff" for c in x):
            return x
        self.add(x.encode("utf-8", "surrogatepass"))
        return ["s"]

    def tensor(self, x: torch.Tensor) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            plain = _detach(x)
            if type(plain) is not torch.Tensor:
                plain = _as_subclass(plain, torch.Tensor)
            name = _TENSOR_NAMES.get(plain.dtype)
            if name is None or plain.layout != torch.strided or plain.device.type != "cpu":
                raise WireError(
                    f"a tensor of dtype {plain.dtype}, layout {plain.layout} on {plain.device} cannot be sent"
                )
            shape = [int(n) for n in plain.shape]
            if len(shape) > _MAX_DIMS:
                raise WireError(f"a tensor of {len(shape)} dimensions, more than {_MAX_DIMS}")
            if self.bytes + math.prod(shape) * plain.element_size() > self.caps.total_bytes:
                raise WireError(f"a tensor of shape {tuple(shape)} is more than {self.caps.total_bytes >> 20} MiB")
            flat = plain.resolve_conj().resolve_neg().contiguous().reshape(-1)
            if flat.stride() != (1,):  # a single item counts as contiguous whatever its stride
                flat = flat.clone(memory_format=torch.contiguous_format)
            self.add(_array_bytes(flat.view(torch.uint8).numpy()))
        return ["x", name, *shape]

    def array(self, x: np.ndarray) -> Any:
        dtype, shape = _array_dtype(x), _array_shape(x)
        if dtype.name not in _ARRAY_DTYPES or len(shape) > _MAX_DIMS:
            raise WireError(f"a NumPy array of dtype {dtype} and {len(shape)} dimensions cannot be sent")
        self.add(_array_bytes(_array_astype(x, _ARRAY_DTYPES[dtype.name])))
        return ["a", dtype.name, *(int(n) for n in shape)]

    def scalar(self, x: np.generic) -> Any:
        self.add(np.generic.tobytes(x))
        return ["n", np.generic.dtype.__get__(x).name]  # type: ignore[attr-defined]


def encode(
    kind: str,
    nonce: str,
    body: dict[str, Any],
    *,
    caps: Caps = DEFAULT_CAPS,
    keep: Callable[[Any], Handle] | None = None,
) -> list[bytes]:
    """The pieces of a frame, to be sent in order.

    `keep` turns an object that is no data into a `Handle`; without it such an object is refused.

    >>> read(b"".join(encode("call", "7", {"args": (1, "a")}))).body
    {'args': (1, 'a')}

    Raises: WireError when something cannot be sent, or is more than `caps` allow.
    """
    return prepare(body, caps=caps, keep=keep).frame(kind, nonce)


@dataclass(frozen=True)
class Prepared:
    """A body that is encoded already and may be sent again and again, each time as another message."""

    tree: bytes
    buffers: tuple[bytes, ...]
    header_bytes: int
    """The most that a header may hold."""

    def frame(self, kind: str, nonce: str) -> list[bytes]:
        """The pieces of a frame with this body. Raises: WireError when the header is too long."""
        names = json.dumps({"kind": kind, "nonce": nonce}, separators=(",", ":")).encode("ascii")
        header = b'%b,"body":%b}' % (names[:-1], self.tree)
        if len(header) > self.header_bytes:
            raise WireError(f"the header is {len(header)} bytes, more than {self.header_bytes}")
        sizes = [len(raw) for raw in self.buffers]
        return [struct.pack(f"!II{len(sizes)}I", len(header), len(sizes), *sizes) + header, *self.buffers]


def prepare(
    body: dict[str, Any], *, caps: Caps = DEFAULT_CAPS, keep: Callable[[Any], Handle] | None = None
) -> Prepared:
    """What `encode` makes of `body`, without kind and nonce.

    >>> read(b"".join(prepare({"x": 1}).frame("call", "7"))).nonce
    '7'

    Raises: WireError as `encode` does.
    """
    encoder = _Encoder(caps, keep)
    tree = json.dumps(encoder.value(body), separators=(",", ":"), allow_nan=False).encode("ascii")
    return Prepared(tree, tuple(encoder.buffers), caps.header_bytes)


class Inbox:
    """Bytes that came with earlier ones and were not asked for yet, so that small frames need few system calls."""

    SIZE = 1 << 16

    def __init__(self) -> None:
        self._pending = memoryview(b"")

    def take(self, view: memoryview) -> memoryview:
        """Fills the beginning of `view` with what is here; what is still to be filled."""
        count = min(len(view), len(self._pending))
        view[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return view[count:]

    def read(self, pipe: Any, view: memoryview) -> memoryview | None:
        """Waits, as `pipe` does, for some of what `view` wants; what is still to be filled, or None when the other end is gone."""
        if len(view) >= self.SIZE:
            count = pipe.recv_into(view)
            return view[count:] if count else None
        data = pipe.recv(self.SIZE)
        self._pending = memoryview(data)
        return self.take(view) if data else None


def receive(caps: Caps = DEFAULT_CAPS) -> Generator[bytearray, None, tuple[bytes, list[bytearray]]]:
    """Yields the byte arrays to fill, one after the other; returns header and buffers when the frame is complete.

    Whoever drives it decides how to wait; no size is trusted before it is checked.

    Raises: ProtocolError when a length is beyond `caps`.
    """
    start = bytearray(8)
    yield start
    header_bytes, count = struct.unpack("!II", start)
    if not 0 < header_bytes <= caps.header_bytes or count > caps.buffers:
        raise ProtocolError(f"a frame with a header of {header_bytes} bytes and {count} buffers", too_big=True)
    raw_sizes = bytearray(4 * count)
    if count:
        yield raw_sizes
    sizes = struct.unpack(f"!{count}I", raw_sizes)
    if sum(sizes) > caps.total_bytes:
        raise ProtocolError(f"a frame with {sum(sizes)} bytes of buffers", too_big=True)
    header = bytearray(header_bytes)
    yield header
    buffers = []
    for size in sizes:
        buffer = bytearray(size)
        if size:
            yield buffer
        buffers.append(buffer)
    return bytes(header), buffers


class _Decoder:
    """Turns a parsed header and its buffers into objects."""

    def __init__(self, buffers: list[bytearray], caps: Caps, open_handle: Callable[[Handle], Any]) -> None:
        self.buffers, self.caps, self.open_handle, self.used = buffers, caps, open_handle, 0
        self.tags: dict[str, Callable[[list[Any], int], Any]] = {
            "l": self.items,
            "t": lambda node, depth: tuple(self.items(node, depth)),
            "d": self.mapping,
            "S": lambda node, depth: set(self.distinct(node, depth)),
            "F": lambda node, depth: frozenset(self.distinct(node, depth)),
            "x": self.tensor,
            "a": self.array,
            "n": self.scalar,
            "s": lambda node, depth: self.text(node),
            "b": lambda node, depth: bytes(self.raw(node, 1)),
            "ba": lambda node, depth: self.raw(node, 1),
            "i": self.integer,
            "f": lambda node, depth: float(_SPECIAL_FLOATS[_SPECIAL_FLOATS.index(self.only(node, 1)[0])]),
            "c": self.complex,
            "dtype": lambda node, depth: _TENSOR_DTYPES[self.only(node, 1)[0]],
            "device": self.device,
            "h": self.handle,
            "code": self.code,
        }

    def value(self, node: Any, depth: int) -> Any:
        kind = type(node)
        if node is None or kind is bool or kind is str or kind is int:
            return node
        if kind is float and math.isfinite(node):
            return node
        if kind is not list or not node or type(node[0]) is not str or node[0] not in self.tags:
            raise ProtocolError("a value in the header that stands for nothing")
        if depth > self.caps.depth:
            raise ProtocolError(f"nested deeper than {self.caps.depth} levels", too_big=True)
        return self.tags[node[0]](node, depth)

    def only(self, node: list[Any], count: int) -> list[Any]:
        if len(node) != count + 1:
            raise ProtocolError(f"tag {node[0]!r} wants {count} items, got {len(node) - 1}")
        return node[1:]

    def raw(self, node: list[Any], length: int | None = None) -> bytearray:
        if length is not None and len(node) != length:
            raise ProtocolError(f"tag {node[0]!r} wants {length - 1} items, got {len(node) - 1}")
        if self.used == len(self.buffers):
            raise ProtocolError("fewer buffers than the header names")
        self.used += 1
        return self.buffers[self.used - 1]

    def items(self, node: list[Any], depth: int) -> list[Any]:
        return [self.value(item, depth + 1) for item in node[1:]]

    def distinct(self, node: list[Any], depth: int) -> list[Any]:
        items = self.items(node, depth)
        _check_keys(items)
        if len(set(items)) != len(items):
            raise ProtocolError("a set with an item twice")
        return items

    def mapping(self, node: list[Any], depth: int) -> dict[Any, Any]:
        keys, values = [], []
        for pair in node[1:]:
            if type(pair) is not list or len(pair) != 2:
                raise ProtocolError("a dict entry that is no pair")
            keys.append(self.value(pair[0], depth + 1))
            values.append(self.value(pair[1], depth + 1))
        _check_keys(keys)
        out = dict(zip(keys, values, strict=True))
        if len(out) != len(keys):
            raise ProtocolError("a dict with a key twice")
        return out

    def text(self, node: list[Any]) -> str:
        return self.raw(node, 1).decode("utf-8", "surrogatepass")

    def integer(self, node: list[Any], depth: int) -> int:
        (digits,) = self.only(node, 1)
        if type(digits) is not str or len(digits) > _INT_DIGITS + 1 or not _HEXADECIMAL.fullmatch(digits):
            raise ProtocolError("an integer that is none")
        return int(digits, 16)

    def complex(self, node: list[Any], depth: int) -> complex:
        parts = [self.value(part, depth + 1) for part in self.only(node, 2)]
        if any(type(part) is not float for part in parts):
            raise ProtocolError("a complex number whose parts are no floats")
        return complex(*parts)

    def device(self, node: list[Any], depth: int) -> torch.device:
        (name,) = self.only(node, 1)
        if type(name) is not str or len(name) > 20:
            raise ProtocolError("a device that is none")
        return torch.device(name)

    def shape(self, dims: list[Any], itemsize: int, buffer: bytearray) -> list[int]:
        if len(dims) > _MAX_DIMS or any(type(n) is not int or not 0 <= n < 1 << 40 for n in dims):
            raise ProtocolError("a shape that is none")
        if math.prod(dims) * itemsize != len(buffer):
            raise ProtocolError(f"a shape {tuple(dims)} of {itemsize}-byte items with {len(buffer)} bytes")
        return dims

    def tensor(self, node: list[Any], depth: int) -> torch.Tensor:
        buffer, dtype = self.raw(node), _TENSOR_DTYPES[node[1]]
        shape = self.shape(node[2:], dtype.itemsize, buffer)
        if dtype is torch.bool and max(buffer, default=0) > 1:
            raise ProtocolError("a bool tensor with a byte other than 0 and 1")
        return torch.frombuffer(buffer, dtype=dtype).reshape(shape) if buffer else torch.empty(shape, dtype=dtype)

    def array(self, node: list[Any], depth: int) -> np.ndarray:
        buffer, dtype = self.raw(node), _ARRAY_DTYPES[node[1]]
        shape = self.shape(node[2:], dtype.itemsize, buffer)
        if dtype == np.bool_ and max(buffer, default=0) > 1:
            raise ProtocolError("a bool array with a byte other than 0 and 1")
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)

    def scalar(self, node: list[Any], depth: int) -> np.generic:
        self.only(node, 1)
        return self.array(node, depth)[()]

    def handle(self, node: list[Any], depth: int) -> Any:
        number, name = self.only(node, 2)
        name = self.value(name, depth + 1)
        if type(number) is not int or not 0 <= number < _SMALL_INT or type(name) is not str:
            raise ProtocolError("a handle that is none")
        return self.open_handle(Handle(number, name[:200]))

    def code(self, node: list[Any], depth: int) -> Any:
        source, args = (self.value(part, depth + 1) for part in self.only(node, 2))
        if type(source) is not str or type(args) is not tuple:
            raise ProtocolError("a Code that is none")
        return Code(source, args)


def _check_keys(keys: list[Any]) -> None:
    if any(isinstance(key, torch.Tensor | np.ndarray) for key in keys):
        raise ProtocolError("a key that is a tensor or an array")
    hashes = sorted(map(hash, keys))
    if any(a == b for a, b in zip(hashes, hashes[_MAX_EQUAL_HASHES:])):
        raise ProtocolError("too many keys with the same hash", too_big=True)


class _Pairs(tuple):
    """A JSON object as it stands in the text, duplicates and all; legal once, as the header itself."""


def _no_constant(name: str) -> Any:
    raise ProtocolError(f"the token {name} in the header")


def _short_int(digits: str) -> int:
    if len(digits) > 20:
        raise ProtocolError("a number of more than 20 digits in the header")
    return int(digits)


_parse = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant, parse_int=_short_int).decode


def _same(x: Any) -> Any:
    return x


def decode(
    header: bytes,
    buffers: list[bytearray],
    *,
    caps: Caps = DEFAULT_CAPS,
    open_handle: Callable[[Handle], Any] = _same,
) -> Message:
    """The message in a received frame. Tensors use the buffers as their memory.

    `open_handle` says what a handle becomes; by default it stays what it is.

    Raises: ProtocolError for anything that `encode` does not write.
    """
    if header.count(b",") + header.count(b"[") > 3 * caps.nodes:
        raise ProtocolError("too many items in the header", too_big=True)
    try:
        pairs = _parse(header.decode("ascii"))
    except RecursionError:
        raise ProtocolError("the header is nested too deeply", too_big=True) from None
    except ProtocolError:
        raise
    except ValueError as error:
        raise ProtocolError(f"the header is no JSON: {error}") from None
    if type(pairs) is not _Pairs or [key for key, _ in pairs] != ["kind", "nonce", "body"]:
        raise ProtocolError("the header wants kind, nonce and body, each once")
    kind, nonce, tree = (value for _, value in pairs)
    if type(kind) is not str or type(nonce) is not str:
        raise ProtocolError("kind and nonce must be strings")
    decoder = _Decoder(buffers, caps, open_handle)
    try:
        body = decoder.value(tree, 0)
    except ProtocolError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, OverflowError, RuntimeError) as error:
        raise ProtocolError(f"a malformed value: {type(error).__name__}") from None
    if decoder.used != len(buffers):
        raise ProtocolError("more buffers than the header names")
    if type(body) is not dict or any(type(key) is not str for key in body):
        raise ProtocolError("the body must be a dict with names as keys")
    return Message(kind, nonce, body)


def read(data: bytes, caps: Caps = DEFAULT_CAPS) -> Message:
    """The message in one whole frame; a convenience for tests and files.

    Raises: ProtocolError also when bytes are missing or left over.
    """
    frame, at = receive(caps), 0
    try:
        while True:
            part = next(frame)
            if at + len(part) > len(data):
                raise ProtocolError("the frame ends too early")
            part[:] = data[at : at + len(part)]
            at += len(part)
    except StopIteration as done:
        header, buffers = done.value
    if at != len(data):
        raise ProtocolError("bytes after the frame")
    return decode(header, buffers, caps=caps)
