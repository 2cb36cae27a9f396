"""Bounded fuzzing of what reads hostile bytes: hypothesis on every run, atheris where it is installed.

`--fuzz-seconds` or the variable FUZZ_SECONDS sets how long atheris looks at each target, FUZZ_EXAMPLES how many examples hypothesis makes.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grader import wire

HARNESS = Path(__file__).with_name("harness.py")
_spec = importlib.util.spec_from_file_location("fuzz_harness", HARNESS)
harness = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(harness)

BOUNDED = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# JSON as an attacker would write it: any values, with the words that mean something mixed in.
WORDS = st.sampled_from(
    ["f", "g", "h", "why", "code", "markdown", "raw", "nbformat", "cells", "source", "metadata", "nbgrader"]
)
TEXTS = st.one_of(
    WORDS, st.text(max_size=20), st.sampled_from(["def f(x):\n return x", "!ls", "%%bash", "\ud800", "\0", "\u202e<b>"])
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.sampled_from([4, "grade_id", 10**30])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5), max_leaves=20
)
IDS = st.fixed_dictionaries({"grade_id": st.sampled_from(["f", "g", "why", "judge_f", "x"]) | JSON})
CELLS = st.fixed_dictionaries(
    {},
    optional={
        "cell_type": st.sampled_from(["code", "markdown", "raw"]) | JSON,
        "source": TEXTS | st.lists(TEXTS, max_size=4) | JSON,
        "metadata": st.fixed_dictionaries({"nbgrader": IDS | JSON}) | JSON,
        "outputs": JSON,
    },
)
NOTEBOOKS = st.fixed_dictionaries(
    {"nbformat": st.just(4) | JSON, "cells": st.lists(CELLS | JSON, max_size=6) | JSON}, optional={"metadata": JSON}
)
TAGS = st.sampled_from(
    ["l", "t", "d", "S", "F", "x", "a", "n", "s", "b", "ba", "i", "f", "c", "dtype", "device", "h", "code", "?"]
)
LEAVES = st.one_of(
    SCALARS,
    st.sampled_from(
        ["float32", "bool", "int64", "nan", "-inf", "cpu", "meta", "cuda:0", "ff", "-0", -1, 0, 1, 2, 1 << 40]
    ),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.builds(lambda tag, items: [tag, *items], TAGS, st.lists(inner, max_size=5)), max_leaves=25
)
BUFFERS = st.lists(st.binary(max_size=40), max_size=4)
VALUES = st.recursive(
    st.one_of(
        *(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.text(max_size=200),
            st.binary(max_size=50),
            st.complex_numbers(),
        ),
        st.builds(
            lambda n, dtype: torch.zeros(n).to(dtype),
            st.integers(0, 4),
            st.sampled_from([torch.float16, torch.int64, torch.bool]),
        ),
        st.builds(lambda n: np.arange(n, dtype=np.int16), st.integers(0, 4)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.tuples(inner, inner), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=15,
)


def corrupted(data: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for at, byte in places:
        changed[at % len(changed)] = byte
    return bytes(changed)


PLACES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)


@BOUNDED
@given(NOTEBOOKS)
def test_notebooks_of_any_content_are_read_or_refused_in_sentences(content):
    harness.run("notebook", json.dumps(content).encode())


@BOUNDED
@given(st.sampled_from(harness.seeds("notebook")), PLACES)
def test_notebooks_with_wrong_bytes_are_read_or_refused(data, places):
    harness.run("notebook", corrupted(data, places))


@BOUNDED
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_by_every_reader(data):
    for target in harness.TARGETS:
        harness.run(target, data)


@BOUNDED
@given(TREES, BUFFERS)
def test_frames_with_any_tree_are_refused_or_stand_a_second_trip(tree, buffers):
    header = json.dumps({"kind": "k", "nonce": "n", "body": ["d", ["x", tree]]}).encode()
    harness.run("frame", harness.join(header, buffers))


@BOUNDED
@given(st.sampled_from(harness.seeds("frame")), PLACES)
def test_frames_with_wrong_bytes_are_refused_or_stand_a_second_trip(data, places):
    harness.run("frame", corrupted(data, places))


@BOUNDED
@given(VALUES)
def test_whatever_can_be_sent_arrives_the_same(value):
    received = wire.read(b"".join(wire.encode("k", "n", {"x": value}))).body["x"]
    assert harness.same(received, value)


class Dripping:
    """A pipe that gives what it holds in pieces of the given sizes, again and again, and then ends."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data, self.sizes, self.turn = data, sizes, 0

    def recv(self, most: int) -> bytes:
        self.turn += 1
        count = min(most, self.sizes[self.turn % len(self.sizes)])
        piece, self.data = self.data[:count], self.data[count:]
        return piece

    def recv_into(self, view: memoryview) -> int:
        piece = self.recv(len(view))
        view[: len(piece)] = piece
        return len(piece)


def received(pipe: Dripping, inbox: wire.Inbox) -> wire.Message | None:
    """One frame, read as both ends of a session read it; None when the pipe ends first."""
    frame = wire.receive()
    view = inbox.take(memoryview(next(frame)))
    try:
        while True:
            while not view:
                view = inbox.take(memoryview(frame.send(None)))
            view = inbox.read(pipe, view)
            if view is None:
                return None
    except StopIteration as done:
        return wire.decode(*done.value)


@BOUNDED
@given(
    st.lists(st.sampled_from(harness.seeds("frame")), min_size=1, max_size=4),
    st.lists(st.integers(1, 200), min_size=1, max_size=5),
    st.integers(0, 3),
    st.sampled_from([1, 7, 1 << 16]),
)
def test_frames_arrive_one_after_the_other_in_whatever_pieces_they_come(frames, sizes, missing, large):
    wire.Inbox.SIZE, before = large, wire.Inbox.SIZE
    try:
        data, inbox = b"".join(frames), wire.Inbox()
        pipe = Dripping(data[: len(data) - missing], sizes)
        got = [received(pipe, inbox) for _ in frames]
    finally:
        wire.Inbox.SIZE = before
    whole = [wire.read(frame) for frame in frames]
    if missing:
        assert got.pop() is None
        whole.pop()
    assert all(harness.same(one.body, other.body) for one, other in zip(got, whole, strict=True))


@BOUNDED
@given(st.sampled_from(harness.seeds("ledger")), PLACES)
def test_ledgers_with_wrong_bytes_are_told_by_line(data, places):
    harness.run("ledger", corrupted(data, places))


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(harness.TARGETS))
def test_atheris_finds_nothing(target, tmp_path, fuzz_seconds):
    pytest.importorskip("atheris", reason="atheris is not installed; pip install atheris (Linux, CPython 3.11 to 3.13)")
    command = [sys.executable, str(HARNESS), target, "--seconds", str(fuzz_seconds), "--keep", str(tmp_path)]
    command += [
        "--seed",
        "1" if fuzz_seconds <= 30 else "0",
    ]  # a short look is for regressions, a long one for what is new
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=fuzz_seconds + 180,
        env=os.environ | {"PYTHONHASHSEED": "0"},
    )
    found = [p for p in tmp_path.glob(f"{target}_*") if p.is_file()]
    assert ended.returncode == 0, (
        f"{[p.read_bytes()[:300] for p in found]}\n{ended.stdout[-1500:]}{ended.stderr[-3000:]}"
    )
    assert not found


@pytest.mark.parametrize("target", sorted(harness.TARGETS))
def test_a_found_input_can_be_run_again_by_itself(target, tmp_path):
    path = tmp_path / "input"
    path.write_bytes(harness.seeds(target)[0])
    subprocess.run([sys.executable, str(HARNESS), target, "--replay", str(path)], check=True)
