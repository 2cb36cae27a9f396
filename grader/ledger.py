"""The record of what was graded: one JSON object a line, each holding the hash of the one before.

Records are only ever added. A line that was edited, taken out or put in breaks the chain at that place, and `verify` names it. What a crash
leaves of a half-written last line was never acknowledged and is cut off when the ledger is opened again.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

GENESIS = "0" * 64
"""The hash before the first record."""
_OWN = ("n", "time", "previous", "hash")


class LedgerError(RuntimeError):
    """The ledger cannot be opened for writing: it is broken, or another grader writes to it."""


@dataclass(frozen=True)
class Verification:
    """What `verify` found."""

    records: int
    """Good records from the beginning."""
    head: str
    """Hash of the last good record."""
    bad: str | None
    """The first thing wrong, in a sentence, or None."""
    torn_bytes: int = 0
    """Length of a half-written last line, which is no fault."""

    @property
    def ok(self) -> bool:
        return self.bad is None


class Ledger:
    """An open ledger. One process at a time may hold it.

    `key` makes the hashes an HMAC, so that only who holds the key can write a chain that verifies.

    Raises: LedgerError when another process holds it, or its chain is broken.
    """

    def __init__(self, path: Path, *, key: bytes | None = None) -> None:
        self.path, self.key = path, key
        self.records: list[dict[str, Any]] = []
        self.head = GENESIS
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - close() closes it
        try:
            self._lock()
            if is_new:
                _sync_folder(path.parent)
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no advisory locks on this system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LedgerError(f"another grader is writing to {self.path}; wait for it, or stop it") from None

    def _load(self) -> None:
        self._file.seek(0)
        good_bytes = 0
        for item in _walk(self._file.read().splitlines(keepends=True), self.key):
            if isinstance(item, str):
                raise LedgerError(f"{self.path} is broken: {item}; keep it, and grade into a new one")
            record, line = item
            if record is None:
                self._file.truncate(good_bytes)
                os.fsync(self._file.fileno())
                return
            self.records.append(record)
            self.head = record["hash"]
            good_bytes += len(line)

    def append(self, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """The records as they were written, on disk when this returns.

        Raises: ValueError for something that is no JSON or uses one of the ledger's own names; nothing is written then.
        """
        made, head = [], self.head
        for offset, record in enumerate(records):
            if taken := [name for name in _OWN if name in record]:
                raise ValueError(f"a record may not set {', '.join(taken)}; the ledger does")
            full = {**record, "n": len(self.records) + offset, "time": datetime.now(UTC).isoformat(), "previous": head}
            full = json.loads(_canonical(full))
            head = full["hash"] = _hash(full, self.key)
            made.append(full)
        data = b"".join(_canonical(full) + b"\n" for full in made)
        start = os.fstat(self._file.fileno()).st_size
        try:
            written = self._file.write(data)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes could be written to {self.path}; is the disk full?")
            os.fsync(self._file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise
        self.records += made
        self.head = head
        return made

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def close(self) -> None:
        """Gives the ledger free for others."""
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def verify(path: Path, *, key: bytes | None = None, head: str | None = None) -> Verification:
    """Whether every record is as it was written, from the first to the last.

    `head` is a hash noted elsewhere (after a run, in the gradebook): records cut off the end show only by it.
    """
    count, last, torn = 0, GENESIS, 0
    hashes = {GENESIS}
    for item in _walk(path.read_bytes().splitlines(keepends=True), key):
        if isinstance(item, str):
            return Verification(count, last, item)
        record, line = item
        if record is None:
            torn = len(line)
            break
        count, last = count + 1, record["hash"]
        hashes.add(last)
    bad = None
    if head is not None and head not in hashes:
        bad = f"after record {count - 1}: the record with the noted hash {head[:12]}... is gone"
    return Verification(count, last, bad, torn)


def _walk(lines: Iterable[bytes], key: bytes | None) -> Iterator[tuple[dict[str, Any] | None, bytes] | str]:
    """(record, line) for each good line, (None, line) for a torn last one, or the sentence about the first bad one."""
    previous = GENESIS
    for n, line in enumerate(lines):
        if not line.endswith(b"\n"):
            yield None, line
            return
        try:
            record = json.loads(line, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            record = None
        where = f"record {n} (line {n + 1})"
        if type(record) is not dict or type(record.get("hash")) is not str:
            yield f"{where} is no record"
            return
        if record.get("previous") != previous or record.get("n") != n:
            yield f"{where} does not follow the one before: a record was taken out, put in or moved"
            return
        if not hmac.compare_digest(record["hash"].encode(), _hash(record, key).encode()):
            yield f"{where} was edited: its hash does not match"
            return
        previous = record["hash"]
        yield record, line


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _canonical(record: dict[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _hash(record: dict[str, Any], key: bytes | None) -> str:
    text = _canonical({name: value for name, value in record.items() if name != "hash"})
    return hmac.new(key, text, "sha256").hexdigest() if key else hashlib.sha256(text).hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
