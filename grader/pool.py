"""Judging processes side by side on this machine. Each owns a warm worker; what goes in and out is one JSON text a line of work.

A process that dies takes nothing with it: what it had in hand is given to another one. Work that three processes died on comes back as None.
A process whose supervisor is gone ends, and its sandbox with it.

    with Pool(2, setup) as pool:
        for number, answer in pool.run(requests): ...
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEATHS = 3
"""So many processes may die on one request before it is given up."""
AHEAD = 2
"""Requests that one process has in hand, so that it never waits for the supervisor."""


class WorkersFailed(RuntimeError):
    """No judging process comes up."""


@dataclass
class _Worker:
    process: subprocess.Popen
    pipe: socket.socket
    in_hand: list[int] = field(default_factory=list)
    answered: int = 0


def send(pipe: socket.socket, text: str) -> None:
    """One text, with its length before it."""
    data = text.encode()
    pipe.sendall(struct.pack("!I", len(data)) + data)


def receive(pipe: socket.socket) -> str | None:
    """The next text, or None when the other end is gone."""
    head = _exactly(pipe, 4)
    data = _exactly(pipe, struct.unpack("!I", head)[0]) if head is not None else None
    return None if data is None else data.decode()


def _exactly(pipe: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            part = pipe.recv(min(size - len(data), 1 << 20))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)


class Pool:
    """`count` processes, each started with `setup` (see `grader.desk.setup_for`)."""

    def __init__(self, count: int, setup: dict[str, Any]) -> None:
        self.count, self.setup = count, json.dumps(setup)
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._useless = 0
        """Processes in a row that died before they answered anything."""

    def __enter__(self) -> Pool:
        for _ in range(self.count):
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        for worker in list(self._workers):
            self._forget(worker)
        self._selector.close()

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        above = str(Path(__file__).resolve().parent.parent)
        begin = f"import sys; sys.path.insert(0, {above!r}); from grader.desk import main; main(sys.argv[1:])"
        command = [sys.executable, "-P", "-c", begin, str(theirs.fileno())]
        process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        worker = _Worker(process, ours)
        with contextlib.suppress(OSError):
            send(ours, self.setup)
        self._workers.append(worker)
        self._selector.register(ours, selectors.EVENT_READ, worker)
        return worker

    def _forget(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.pipe)
        worker.pipe.close()  # it ends by itself, and its sandbox with it
        try:
            worker.process.wait(5)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()

    def run(self, requests: Iterable[str]) -> Iterator[tuple[int, str | None]]:
        """(number of the request, answer) as they come; None for one that `DEATHS` processes died on.

        Each process begins with a run of its own of the requests and then helps the others.

        Raises: WorkersFailed when processes die one after the other without a single answer.
        """
        texts = list(requests)
        deaths = dict.fromkeys(range(len(texts)), 0)
        queues = [deque(part) for part in _split(range(len(texts)), self.count)]
        left = len(texts)
        for place, worker in enumerate(self._workers):
            self._feed(worker, place, queues, texts)
        while left:
            for key, _ in self._selector.select():
                worker = key.data
                place = self._workers.index(worker)
                answer = receive(worker.pipe)
                if answer is not None:
                    number = worker.in_hand.pop(0)
                    worker.answered += 1
                    self._useless = 0
                    self._feed(worker, place, queues, texts)  # before the caller takes its time
                    left -= 1
                    yield number, answer
                    continue
                lost = self._replace(worker, place)
                for number in lost[:1]:  # what it was at; the rest it had not begun
                    deaths[number] += 1
                for number in reversed(lost):
                    if deaths[number] < DEATHS:
                        queues[place % len(queues)].appendleft(number)
                    else:
                        left -= 1
                        yield number, None
                self._feed(self._workers[place], place, queues, texts)

    def _feed(self, worker: _Worker, place: int, queues: list[deque[int]], texts: list[str]) -> None:
        while len(worker.in_hand) < AHEAD:
            own = queues[place % len(queues)] if queues else None
            if not own:
                longest = max(queues, key=len, default=None)
                if not longest:
                    return
                number = longest.pop()
            else:
                number = own.popleft()
            worker.in_hand.append(number)
            try:
                send(worker.pipe, texts[number])
            except OSError:
                return  # its end shows when its pipe is read

    def _replace(self, worker: _Worker, place: int) -> list[int]:
        """Starts another process in the place of a dead one; what the dead one had in hand."""
        self._useless = 0 if worker.answered else self._useless + 1
        lost = worker.in_hand
        self._forget(worker)
        code = worker.process.returncode
        if self._useless >= DEATHS * self.count:
            raise WorkersFailed(
                f"judging processes end as soon as they start (exit code {code}); nothing was lost. Their complaint stands above"
            )
        fresh = self._start()
        self._workers.remove(fresh)
        self._workers.insert(place, fresh)
        return lost


def _split(items: range, parts: int) -> list[range]:
    """`items` in `parts` runs of nearly equal length.

    >>> [list(r) for r in _split(range(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    size, more = divmod(len(items), parts)
    cuts = [n * size + min(n, more) for n in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]
