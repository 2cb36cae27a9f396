"""Claims: verdicts from conditions, cards that escape, and records that come back out of a notebook."""

import json
import math

import pytest
import torch

from llmcore import _display, claims
from llmcore.claims import CLAIMS, MIME, collect, format_value, judge, record


@pytest.fixture(autouse=True)
def _no_earlier_records(monkeypatch):
    monkeypatch.setattr(claims, "_recorded", {})


def test_the_ledger_is_complete_and_in_order():
    counts = {"01": 15, "02": 17, "03": 15, "04": 12, "05": 14, "06": 13, "07": 15, "08": 10}
    for chapter, count in counts.items():
        ids = [name for name in CLAIMS if name.startswith(f"C{chapter}")]
        assert ids == [f"C{chapter}.{number:02d}" for number in range(1, count + 1)]
    assert len(CLAIMS) == 154
    assert list(CLAIMS) == sorted(CLAIMS)
    assert CLAIMS["C02.13"].text == "one MLA layer caches about as much as 2.25 MQA layers"
    assert CLAIMS["C02.13"].sources == ("E",)
    assert CLAIMS["C06.13"].sources == ()
    assert all(entry.text and set(entry.sources) <= set(claims.SOURCES) for entry in CLAIMS.values())
    assert all(entry.expected for name, entry in CLAIMS.items() if name < "C09")


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        ({"confirmed": True}, "confirmed"),
        ({"confirmed": False}, "refuted"),
        ({"confirmed": torch.tensor(3.0) > 2}, "confirmed"),
        ({"confirmed": True, "refuted": False, "on": "d"}, "confirmed"),
        ({"confirmed": False, "refuted": True, "on": "d"}, "refuted"),
        ({"confirmed": True, "refuted": True, "on": "d"}, "depends"),
        ({"confirmed": False, "refuted": False, "on": "d"}, "depends"),
    ],
)
def test_judge_derives_the_verdict(conditions, verdict):
    claim = judge("C02.01", evidence={"n": 1}, show=False, **conditions)
    assert claim.verdict == verdict
    assert claim.on == ("d" if verdict == "depends" else "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: record("C02.18", verdict="confirmed", evidence={"n": 1}),
            "no claim has the id 'C02.18'; did you mean",
        ),
        (lambda: record("C02.01", verdict="true", evidence={"n": 1}), "must be one of confirmed, refuted, depends"),
        (lambda: record("C02.01", verdict="confirmed", evidence={}), "needs evidence, got none"),
        (lambda: record("C02.01", verdict="depends", evidence={"n": 1}), "on= is empty"),
        (lambda: judge("C02.01", confirmed=True, refuted=False, evidence={"n": 1}), "on= is empty"),
    ],
)
def test_what_is_missing_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert claims.recorded() == {}


def test_a_terminal_gets_one_line(capsys):
    claim = record("C02.05", verdict="confirmed", evidence={"change": 0.000123456, "bytes": 123456789}, note="float32")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert line.startswith("C02.05 [+] confirmed: adding a constant")
    assert "change = 0.0001235, bytes = 123,456,789 | float32" in line
    assert claims.recorded() == {"C02.05": claim}


def test_values_are_shown_with_four_digits():
    shown = {0.123456: "0.1235", 123456.7: "123,500", -12.3456: "-12.35", 0.0: "0", math.inf: "inf", 1e-9: "1e-09"}
    assert {value: format_value(value) for value in shown} == shown
    assert format_value([1, 2.5, "a"]) == "1, 2.5, a"
    assert format_value(1e20) == "1e+20"
    assert format_value(True) == "yes"


def test_the_card_escapes_and_says_the_verdict_in_words():
    claim = record("C05.06", verdict="refuted", evidence={"<b>n</b>": "<script>"}, note="a & <i>", show=False)
    card = claim.to_html()
    assert "<script>" not in card
    assert "<b>n" not in card
    assert "&lt;script&gt;" in card
    assert "a &amp; &lt;i&gt;" in card
    assert "C05.06 &#10007; refuted" in card
    assert "(notes D)" in card


def test_a_record_survives_the_notebook():
    evidence = {"exact": 2**40, "rounded": 1 / 3, "none": math.inf, "tensor": torch.tensor(2.5), "row": torch.ones(2)}
    claim = judge("C02.07", confirmed=True, refuted=True, on="rank", evidence=evidence, note="x", show=False)
    data, _ = claim._bundle()
    assert set(data) == {"text/plain", "text/html", MIME}
    written = json.loads(json.dumps(data[MIME], allow_nan=False))
    notebook = {
        "cells": [
            {"cell_type": "markdown"},
            {"outputs": [{"output_type": "stream"}, {"output_type": "display_data", "data": {MIME: written}}]},
        ]
    }
    (back,) = collect(notebook)
    assert (back.id, back.verdict, back.on, back.note, back.sources) == ("C02.07", "depends", "rank", "x", ("D", "E"))
    assert back.evidence == {"exact": 2**40, "rounded": 0.3333, "none": "inf", "tensor": 2.5, "row": [1.0, 1.0]}
    written["verdict"] = "true"
    with pytest.raises(ValueError, match="cell 1 holds a damaged claim record"):
        list(collect(notebook))


def test_a_notebook_shows_it_once_a_cell(monkeypatch):
    shown = []

    class Shell:
        execution_count = 4

    monkeypatch.setattr(_display, "shell", Shell)
    monkeypatch.setattr(_display, "show_bundle", lambda data, metadata=None: shown.append(data))
    claim = record("C02.05", verdict="confirmed", evidence={"n": 1})
    claim._ipython_display_()
    assert len(shown) == 1
    Shell.execution_count = 5
    claim._ipython_display_()
    assert len(shown) == 2
