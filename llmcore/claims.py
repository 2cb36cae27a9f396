"""Claims of the study notes and what the lessons found out about them.

A lesson cell measures something and calls `judge` (which derives the verdict) or `record` (which takes it). The verdict
is shown as a card, and the whole record travels in the notebook's output, so that a table of all verdicts can be
collected from executed notebooks. The claims are listed in `llmcore._claim_texts`.
"""

import difflib
import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from llmcore._claim_texts import CLAIM_ROWS
from llmcore._display import ShownOnce

MIME = "application/vnd.llm-principles.claim+json"

SOURCES = {
    "A": "000_9c69ef2cab52fb37",
    "B": "001_c596066cda7d5696",
    "C": "002_edf1e553765f384e",
    "D": "003_863c4a0b043ec164",
    "E": "004_b5cdf3d515382f22",
}
"""File names of the five sets of study notes, by the letter that the claims use."""

# Verdict: (symbol, HTML entity, border colour). Word and symbol carry the meaning; the colour only repeats it.
_LOOKS = {
    "confirmed": ("[+]", "&#10003;", "#009E73"),
    "refuted": ("[-]", "&#10007;", "#D55E00"),
    "depends": ("[~]", "&#8776;", "#0072B2"),
}
VERDICTS = tuple(_LOOKS)


@dataclass(frozen=True)
class ClaimText:
    """One claim as the notes make it."""

    id: str
    text: str
    sources: tuple[str, ...]
    """Letters of the notes that make the claim (see `SOURCES`); empty where the course itself raises the question."""
    expected: str
    """A first reading, to be tested; empty where there is none."""


CLAIMS: dict[str, ClaimText] = {row[0]: ClaimText(row[0], row[1], tuple(row[2]), row[3]) for row in CLAIM_ROWS}
"""All claims by id, in the order of the ledger."""


@dataclass(frozen=True, repr=False)
class Claim(ShownOnce):
    """A claim with its verdict and the evidence behind it. In a notebook it shows itself as a card."""

    id: str
    text: str
    sources: tuple[str, ...]
    expected: str
    verdict: str
    evidence: dict[str, Any] = field(hash=False)
    on: str = ""
    note: str = ""

    def __str__(self) -> str:
        shown = ", ".join(f"{name} = {format_value(value)}" for name, value in self.evidence.items())
        extra = f" (on: {self.on})" if self.on else ""
        note = f" | {self.note}" if self.note else ""
        return f"{self.id} {_LOOKS[self.verdict][0]} {self.verdict}{extra}: {self.text} | {shown}{note}"

    def __repr__(self) -> str:
        return f"<Claim {self.id} {self.verdict}>"

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, with evidence rounded as it is displayed, so that reruns give the same file."""
        evidence = {name: _json_value(value) for name, value in self.evidence.items()}
        return {**asdict(self), "sources": list(self.sources), "evidence": evidence}

    def to_html(self) -> str:
        """One compact card that stays readable where styles are stripped. All text is escaped."""
        _, symbol, color = _LOOKS[self.verdict]
        on = f" on {html.escape(self.on)}" if self.on else ""
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;padding-right:1em">{html.escape(str(name))}</th>'
            f'<td style="text-align:left">{html.escape(format_value(value))}</td></tr>'
            for name, value in self.evidence.items()
        )
        note = f'<p style="margin:0.2em 0">{html.escape(self.note)}</p>' if self.note else ""
        source = f" <small>(notes {', '.join(self.sources)})</small>" if self.sources else ""
        return (
            f'<div role="group" aria-label="Claim {self.id}: {self.verdict}" '
            f'style="border:1px solid {color};border-left:0.5em solid {color};padding:0.3em 0.8em;margin:0.3em 0">'
            f'<p style="margin:0.2em 0"><strong>{self.id} {symbol} {self.verdict}{on}</strong><br>'
            f"{html.escape(self.text)}{source}</p>"
            f'<table style="margin:0.2em 0"><tbody>{rows}</tbody></table>{note}</div>'
        )

    def _bundle(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"text/plain": str(self), "text/html": self.to_html(), MIME: self.to_json()}, {}


_recorded: dict[str, Claim] = {}


def recorded() -> dict[str, Claim]:
    """The claims that this process has recorded so far, the last verdict of each, by id."""
    return dict(_recorded)


def record(
    claim_id: str, *, verdict: str, evidence: Mapping[str, Any], on: str = "", note: str = "", show: bool = True
) -> Claim:
    """The claim with its verdict, displayed unless `show` is False.

    Evidence maps a short name to a number, text, bool or short list of them (tensors of one element are numbers).
    Fractions are displayed with 4 significant digits, integers exactly.

    >>> record("C02.05", verdict="confirmed", evidence={"largest change": 1.19e-7}, show=False)
    <Claim C02.05 confirmed>

    Raises: ValueError for an unknown id or verdict, empty evidence, or "depends" without `on`.
    """
    if claim_id not in CLAIMS:
        near = difflib.get_close_matches(str(claim_id), CLAIMS, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; the ids are the keys of llmcore.claims.CLAIMS"
        raise ValueError(f"no claim has the id {claim_id!r}{hint}")
    if verdict not in VERDICTS:
        raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {verdict!r}")
    if not evidence:
        raise ValueError(f"claim {claim_id} needs evidence, got none; pass the numbers that the verdict rests on")
    if verdict == "depends" and not on.strip():
        raise ValueError(f"claim {claim_id} depends, but on= is empty; say on what it depends, such as on='the dtype'")
    entry = CLAIMS[claim_id]
    claim = Claim(
        **{name: getattr(entry, name) for name in ("id", "text", "sources", "expected")},
        verdict=verdict,
        evidence={str(name): _plain(value) for name, value in evidence.items()},
        on=on.strip() if verdict == "depends" else "",
        note=note,
    )
    _recorded[claim_id] = claim
    if show:
        claim.show()
    return claim


def judge(
    claim_id: str,
    *,
    confirmed: object,
    refuted: object = None,
    evidence: Mapping[str, Any],
    on: str = "",
    note: str = "",
    show: bool = True,
) -> Claim:
    """The claim with the verdict that the two conditions give, displayed unless `show` is False.

    Conditions are truth values: bools, or what a comparison of numpy or torch scalars gives. With `confirmed` alone a
    False refutes. With both, each says what would settle it: only one true gives that verdict; both (it holds here and
    fails there) or neither gives "depends", so `on` must then be said beforehand.

    >>> judge("C02.01", confirmed=abs(64.3 / 64 - 1) < 0.05, evidence={"variance / d_k": 64.3 / 64}, show=False)
    <Claim C02.01 confirmed>
    >>> judge("C02.07", confirmed=True, refuted=True, on="exact or numerical rank", evidence={"rank": 31}, show=False)
    <Claim C02.07 depends>

    Raises: ValueError as `record`, and when `refuted` is given without `on`.
    """
    if refuted is None:
        verdict = "confirmed" if bool(confirmed) else "refuted"
    else:
        if not on.strip():
            raise ValueError(
                f"claim {claim_id} can come out as depends, because refuted= is given, but on= is empty; "
                "say on what it depends, such as on='the dtype'"
            )
        verdict = {(True, False): "confirmed", (False, True): "refuted"}.get(
            (bool(confirmed), bool(refuted)), "depends"
        )
    return record(claim_id, verdict=verdict, evidence=evidence, on=on, note=note, show=show)


def collect(notebook: Mapping[str, Any]) -> Iterator[Claim]:
    """The claims that the outputs of an executed notebook (its parsed JSON) hold, in cell order.

    Raises: ValueError when a record in it is damaged.
    """
    names = {"id", "text", "sources", "expected", "verdict", "evidence", "on", "note"}
    for number, cell in enumerate(notebook.get("cells", [])):
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get(MIME)
            if data is None:
                continue
            if not isinstance(data, Mapping) or set(data) != names or data["verdict"] not in VERDICTS:
                raise ValueError(
                    f"cell {number} holds a damaged claim record, got {data!r:.80}; run the notebook again"
                )
            yield Claim(**{**data, "sources": tuple(data["sources"])})


def format_value(value: Any) -> str:
    """The value as a card shows it: 4 significant digits, integers whole with thousands commas.

    >>> [format_value(v) for v in (0.123456, 4294967296, 1.5e-9, True, [1.0, 2.34567], float("inf"))]
    ['0.1235', '4,294,967,296', '1.5e-09', 'yes', '1, 2.346', 'inf']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if not 1e4 <= abs(value) < 1e15 else f"{float(f'{value:.4g}'):,.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def _plain(value: Any) -> Any:
    """Python's own number, bool, text or list for a value that may be a numpy or torch scalar or array."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)


def _json_value(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    return value
