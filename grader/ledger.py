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
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

GENESIS = "0" * 64
"""The hash before the first record."""
OWN_NAMES = ("n", "time", "previous", "hash")
"""What the ledger adds to each record."""


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

    Raises: LedgerError when another process holds it for longer than `wait_s`, or its chain is broken.
    """

    def __init__(self, path: Path, *, key: bytes | None = None, wait_s: float = 0.0) -> None:
        self.path, self.key = path, key
        self.records: list[dict[str, Any]] = []
        self.head = GENESIS
        self._good_bytes = 0
        self._wait_s: float | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - close() closes it
        try:
            self._lock(wait_s)
            if is_new:
                _sync_folder(path.parent)
            self._load()
        except BaseException:
            self._file.close()
            raise

    def _lock(self, wait_s: float = 0.0) -> None:
        try:
            import fcntl
        except ImportError:  # no advisory locks on this system
            return
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() >= deadline:
                    raise LedgerError(f"another grader is writing to {self.path}; wait for it, or stop it") from None
                time.sleep(0.01)

    def _unlock(self) -> None:
        with contextlib.suppress(ImportError):
            import fcntl

            fcntl.flock(self._file, fcntl.LOCK_UN)

    def share(self, wait_s: float = 60.0) -> None:
        """From here on the ledger is held only while a record is added, so that graders of other assignments can add theirs.

        Each `append` waits up to `wait_s` for the others and takes in, checked, what they have written.
        """
        self._wait_s = wait_s
        self._unlock()

    def _load(self) -> None:
        self._file.seek(self._good_bytes)
        lines = self._file.read().splitlines(keepends=True)
        for item in _walk(lines, self.key, self.head, len(self.records)):
            if isinstance(item, str):
                raise LedgerError(f"{self.path} is broken: {item}; keep it, and grade into a new one")
            record, line = item
            if record is None:
                self._file.truncate(self._good_bytes)
                os.fsync(self._file.fileno())
                return
            self.records.append(record)
            self.head = record["hash"]
            self._good_bytes += len(line)

    def append(self, *records: dict[str, Any]) -> list[dict[str, Any]]:
        """The records as they were written, on disk when this returns.

        Raises: ValueError for something that is no JSON or uses one of the ledger's own names; nothing is written then.
        LedgerError when the ledger is shared and another process does not let go of it, or broke it.
        """
        if self._wait_s is None:
            return self._append(records)
        self._lock(self._wait_s)
        try:
            self._load()
            return self._append(records)
        finally:
            self._unlock()

    def _append(self, records: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
        made, head = [], self.head
        for offset, record in enumerate(records):
            if taken := [name for name in OWN_NAMES if name in record]:
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
        self._good_bytes += len(data)
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
    found, records = read(path, key=key)
    if found.ok and head is not None and head not in {GENESIS, *(record["hash"] for record in records)}:
        bad = f"after record {found.records - 1}: the record with the noted hash {head[:12]}... is gone"
        return Verification(found.records, found.head, bad, found.torn_bytes)
    return found


def read(path: Path, *, key: bytes | None = None) -> tuple[Verification, list[dict[str, Any]]]:
    """What `verify` says, and the good records from the beginning up to the first bad one. Takes no lock and changes nothing."""
    records: list[dict[str, Any]] = []
    last, torn = GENESIS, 0
    for item in _walk(path.read_bytes().splitlines(keepends=True), key):
        if isinstance(item, str):
            return Verification(len(records), last, item), records
        record, line = item
        if record is None:
            torn = len(line)
            break
        records.append(record)
        last = record["hash"]
    return Verification(len(records), last, None, torn), records


def _walk(
    lines: Iterable[bytes], key: bytes | None, previous: str = GENESIS, first: int = 0
) -> Iterator[tuple[dict[str, Any] | None, bytes] | str]:
    """(record, line) for each good line, (None, line) for a torn last one, or the sentence about the first bad one.

    `previous` and `first` are the hash and the number that come before these lines.
    """
    for n, line in enumerate(lines, first):
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
