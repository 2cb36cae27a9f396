"""The trusted end of the sandbox: a warm worker, and for each session a `Student` whose functions live behind its walls.

    with WarmWorker() as worker, worker.session(given, cells, functions=("softmax",)) as student:
        answer = student.call("softmax", (x,), {})

A session is one forked process: what it is asked goes over one pipe as data (`grader.wire`), what it prints over another, and time, output and
answers are policed from here. Nothing that comes back is believed further than its values. A session that ends, hangs or floods
costs that session; a worker that dies is started again, and the session with it, before anyone's answer is blamed.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from grader import sandbox, wire
from grader.calling import MAX_TEXT, Call
from grader.course import Chapter
from grader.exercise import Answer, Outcome
from grader.inner import Limits
from grader.pipe import Child, Ended, Exchange, Printed

START_SECONDS = 120.0
"""A worker that has not imported torch by then is broken."""
FORK_SECONDS = 20.0
TRIES = 3
DEFAULT_LIMITS = Limits()


class InfrastructureError(RuntimeError):
    """The grader's own machinery failed, three times over. No submission is to blame."""


@dataclass(frozen=True)
class Usage:
    """What a session cost, as the kernel counted it."""

    exit_code: int
    """Negative: the signal that ended it."""
    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class CellError:
    """Why a cell did not run."""

    error: str
    text: str
    lines: str


class WarmWorker:
    """A process that holds torch imported behind the outer wall and forks for each session.

    One thread at a time may use it. `modules` are imported beforehand, beside torch and NumPy. After `max_forks` sessions, or when its
    memory has grown by `max_growth_bytes`, it is replaced.

    Raises: NoWalls (see `grader.sandbox.find_walls`) when `walls` is None and this machine has none.
    """

    def __init__(
        self,
        walls: sandbox.Walls | None = None,
        *,
        modules: tuple[str, ...] = ("numpy",),
        max_forks: int = 1000,
        max_growth_bytes: int = 512 << 20,
    ) -> None:
        self.walls = walls or sandbox.find_walls()
        self.modules, self.max_forks, self.max_growth_bytes = modules, max_forks, max_growth_bytes
        self.versions: dict[str, str] = {}
        """Of Python and torch inside."""
        self._process: sandbox.Process | None = None
        self._forks = self._number = 0
        self._first_bytes = self._now_bytes = 0
        self._text = b""
        self._exits: dict[int, Usage] = {}
        self._open: set[int] = set()
        self._spare: Child | None = None
        self._prepared: tuple[list[str], list[list[str]]] | None = None

    def __enter__(self) -> WarmWorker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the process unless it runs. Raises: InfrastructureError with its last words when it does not come up."""
        if self._process is None:
            self.adopt(sandbox.start(self.walls, self.modules))
        deadline = time.monotonic() + START_SECONDS
        while not self.versions:
            if not self._listen(deadline - time.monotonic()):
                words = self._process.last_words() if self._process else ""
                self.close()
                raise InfrastructureError(f"the worker did not start: {words or 'no message'}")

    def adopt(self, process: sandbox.Process) -> None:
        """Takes a process that was started with these walls and modules and may still be importing."""
        self._process = process
        process.control.settimeout(FORK_SECONDS)
        self._forks, self._first_bytes, self._text = 0, 0, b""
        self._send_prepared()

    def close(self) -> None:
        """Ends the process and every session in it."""
        if self._spare:
            self._spare.close()
            self._spare = None
        if self._process:
            self._process.close()
            self._process = None
        self.versions = {}

    def prepare(self, sources: Sequence[str], forbids: Iterable[Sequence[str]]) -> None:
        """Has every later fork find these sources of our own compiled, and what is forbidden looked up. It only saves time."""
        self._prepared = (list(sources), [list(names) for names in forbids])
        if self._process is not None:
            self._send_prepared()

    def prepare_for(self, chapter: Chapter) -> None:
        """`prepare` with what every exercise of a chapter needs."""
        self.prepare(chapter.given, [e.forbids for e in chapter.exercises.values()])

    def _send_prepared(self) -> None:
        if self._prepared is not None and self._process is not None:
            request = json.dumps({"do": "prepare", "sources": self._prepared[0], "forbids": self._prepared[1]})
            with contextlib.suppress(OSError):  # who is gone shows at the next fork
                self._process.control.sendall(request.encode() + b"\n")
            if self._spare:  # it was made before
                self._end(self._spare)
                self._spare = None

    @contextlib.contextmanager
    def session(
        self,
        given: Sequence[str],
        cells: dict[str, str],
        replace: dict[str, str] | None = None,
        forbids: Sequence[str] = (),
        functions: Sequence[str] = (),
        limits: Limits = DEFAULT_LIMITS,
    ) -> Iterator[SandboxStudent]:
        """A `Student` in a process of its own, gone at the end of the block.

        Runs the `given` cells, then each of `cells` (exercise name to source), each on its own: one that raises costs itself
        (`student.errors`). Then the functions of `replace` (our solutions of exercises that may be used) take the place of the
        learner's. `forbids` are withheld while cells and calls run. `student.missing` are those of `functions` that nothing defined.

        Raises: InfrastructureError when the machinery failed three times.
        """
        student = self._begin(list(given), dict(cells), dict(replace or {}), list(forbids), list(functions), limits)
        try:
            yield student
        finally:
            student.close()

    def _begin(
        self,
        given: list[str],
        cells: dict[str, str],
        replace: dict[str, str],
        forbids: list[str],
        functions: list[str],
        limits: Limits,
    ) -> SandboxStudent:
        body = {"given": given, "cells": cells, "replace": replace, "forbids": forbids, "functions": functions}
        reason = ""
        for _ in range(TRIES):
            try:
                student = SandboxStudent(self, self._take(limits))
            except (InfrastructureError, OSError) as error:
                reason = str(error)
            else:
                student.load(body)
                if student.outcome is not Outcome.INFRASTRUCTURE:
                    with contextlib.suppress(InfrastructureError, OSError):
                        self._spare = self._fork(limits)  # the next session's process, made while this one is judged
                    return student
                student.close()
                reason = student.end_text
            self.close()
        raise InfrastructureError(reason)

    def _take(self, limits: Limits) -> Child:
        """A process that stands ready behind its walls."""
        if not self.alive:
            self.close()
        if not self._open and (
            self._forks >= self.max_forks or self._now_bytes > self._first_bytes + self.max_growth_bytes
        ):
            self.close()
        self.start()
        child, self._spare = self._spare, None
        if (
            child
            and replace(child.limits, seconds=0.0) == replace(limits, seconds=0.0)
            and child.limits.seconds >= limits.seconds
        ):
            child.limits = limits  # wall-clock time is kept here, whatever the kernel was told of processor time
        elif child:
            self._end(child)
            child = None
        child = child or self._fork(limits)
        try:
            self._await_ready(child)
        except BaseException:
            self._end(child)
            raise
        self._open.add(child.number)
        return child

    def _fork(self, limits: Limits) -> Child:
        assert self._process is not None
        while self._listen(0):
            pass  # else its reports would fill the pipe
        self._number += 1
        self._forks += 1
        child = Child(self._number, limits)
        request = json.dumps({"do": "fork", "session": child.number, "limits": asdict(limits)}).encode() + b"\n"
        try:
            socket.send_fds(self._process.control, [request], [child.far_data.fileno(), child.far_output])
        except OSError as error:
            child.close()
            raise InfrastructureError(f"the worker is gone: {error}") from None
        child.close_far_ends()
        return child

    def _await_ready(self, child: Child) -> None:
        printed = Printed()
        try:
            message = Exchange(child, printed).receive(time.monotonic() + FORK_SECONDS)
        except (Ended, wire.ProtocolError):
            message = None
        if message is None or message.kind != "ready":
            words = printed.text() or (self._process.last_words() if self._process else "")
            raise InfrastructureError(f"a session did not start: {words or 'no message'}")

    def _end(self, child: Child) -> None:
        child.close()
        self._open.discard(child.number)
        if self._process:
            request = json.dumps({"do": "kill", "session": child.number}).encode() + b"\n"
            with contextlib.suppress(OSError):
                self._process.control.send(request)

    def usage(self, child: Child, seconds: float) -> Usage | None:
        """What an ended session cost, waiting up to `seconds` for the worker to say so; None when it does not."""
        deadline = time.monotonic() + seconds
        while child.number not in self._exits:
            if self._process is None or not self._listen(deadline - time.monotonic()):
                return None
        return self._exits.pop(child.number)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.process.poll() is None

    def _listen(self, seconds: float) -> bool:
        """Takes in what the worker says; False when it said nothing in time, or is gone."""
        assert self._process is not None
        waiting = select.poll()
        waiting.register(self._process.control, select.POLLIN)
        if not waiting.poll(max(0.0, seconds) * 1000):
            return False
        try:
            text = self._process.control.recv(65536)
        except OSError:
            text = b""
        if not text:
            return False
        *lines, self._text = (self._text + text).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "ready":
                self.versions = {"python": event["python"], "torch": event["torch"]}
            else:
                self._exits[event["session"]] = Usage(event["code"], event["cpu"], event["peak"])
                self._now_bytes = event["worker"]
                self._first_bytes = self._first_bytes or event["worker"]
        return True


class SandboxStudent:
    """A `Student` behind walls. Values that are no data come back as `wire.Handle`, good for `method`, `attribute` and as arguments."""

    def __init__(self, worker: WarmWorker, child: Child) -> None:
        self.worker, self.child = worker, child
        self.errors: dict[str, CellError] = {}
        """By cell name ("given 1", an exercise, "solution of ..."): why it did not run."""
        self.missing: tuple[str, ...] = ()
        self.seconds = 0.0
        """Wall-clock time waited for it so far."""
        self.outcome: Outcome | None = None
        """Set when the process ended or was ended instead of answering; every later answer says the same."""
        self.end_text = ""
        self._printed = Printed()
        self._exchange = Exchange(child, self._printed)
        self._closed = False
        self._usage: Usage | None = None

    def __enter__(self) -> SandboxStudent:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def printed(self) -> str:
        """What it printed, at most 64 KiB."""
        return self._printed.text()

    @property
    def usage(self) -> Usage | None:
        """Processor time and peak memory, known once the session is closed; None when the worker does not say."""
        if self._closed and self._usage is None:
            self._usage = self.worker.usage(self.child, 2.0)
        return self._usage

    def close(self) -> None:
        """Ends the process. Its walls, disk and handles go with it."""
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):  # what it printed last
                self._printed.add(os.read(self.child.output, 1 << 16))
            self.worker._end(self.child)

    def load(self, body: dict[str, Any]) -> None:
        """Runs the cells; see `WarmWorker.session`."""
        reply = self._ask("load", body)
        if reply is None:
            return
        errors, missing = reply.get("errors"), reply.get("missing")
        if type(errors) is not dict or type(missing) is not list:
            self._ended(Outcome.INVALID, "it answered with something that is no data")
            return
        for name, parts in list(errors.items())[:200]:
            if type(name) is str and type(parts) is list and len(parts) == 3:
                self.errors[name] = CellError(*(str(p)[:MAX_TEXT] for p in parts))
        self.missing = tuple(f for f in body["functions"] if f in missing)

    def call(
        self,
        function: str,
        args: tuple,
        kwargs: dict[str, Any],
        grad: Sequence[int | str] = (),
        cotangents: Sequence[Tensor] = (),
    ) -> Answer:
        """What the function answers. Raises: wire.WireError when an argument is no data and not wrapped in `Code`."""
        return self._answer("call", Call(function, args, kwargs, grad, cotangents).body, args, kwargs)

    def calls(self, calls: Sequence[Call]) -> Iterator[Answer]:
        """The answer to each call, in order. All are sent at once, so that it works on the next while one is looked at.

        Raises: wire.WireError, before anything is sent, when an argument is no data and not wrapped in `Code`.
        """
        for call in calls:
            call.encoded = call.encoded or wire.prepare(call.body)
        nonces = [secrets.token_hex(8) for _ in calls] if self.outcome is None else []
        for call, nonce in zip(calls, nonces):
            self._exchange.send(call.encoded.frame("call", nonce))
        for call, nonce in zip(calls, nonces or [""] * len(calls)):
            yield self._as_answer(self._reply(nonce), call.args, call.kwargs)

    def method(self, handle: Any, name: str, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Answer:
        body = {"handle": handle, "name": name, "args": tuple(args), "kwargs": kwargs or {}}
        return self._answer("method", body, args, kwargs)

    def attribute(self, handle: Any, name: str) -> Answer:
        return self._answer("attribute", {"handle": handle, "name": name})

    def _answer(
        self, kind: str, body: dict[str, Any], args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Answer:
        return self._as_answer(self._ask(kind, body), args, kwargs or {})

    def _as_answer(self, reply: dict[str, Any] | None, args: tuple, kwargs: dict[str, Any]) -> Answer:
        if reply is not None:
            if reply.get("args_after") is True and reply.get("kwargs_after") is True:  # it says: as they were
                reply = {**reply, "args_after": tuple(args), "kwargs_after": dict(kwargs)}
            if (answer := _as_answer(reply)) is not None:
                return answer
            self._ended(Outcome.INVALID, "it answered with something that is no data")
        return Answer(outcome=self.outcome, error_text=self.end_text)

    def _ask(self, kind: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The reply, or None when the session has ended; then `outcome` says how."""
        if self.outcome is not None:
            return None
        nonce = secrets.token_hex(8)
        self._exchange.send(wire.encode(kind, nonce, body))
        return self._reply(nonce)

    def _reply(self, nonce: str) -> dict[str, Any] | None:
        if self.outcome is not None:
            return None
        begin = time.monotonic()
        try:
            message = self._exchange.receive(begin + self.child.limits.seconds - self.seconds)
            if message.kind != "answer" or message.nonce != nonce:
                raise wire.ProtocolError("an answer to another question")
            return message.body
        except Ended as end:
            self._ended(end.outcome, end.text)
        except wire.ProtocolError as error:
            outcome = Outcome.OUTPUT_LIMIT if error.too_big else Outcome.INVALID
            self._ended(outcome, f"it answered with something that is no data: {error}")
        finally:
            self.seconds += time.monotonic() - begin
        return None

    def _ended(self, outcome: Outcome, text: str) -> None:
        if outcome is Outcome.CRASHED:
            outcome, text = self._how_it_ended()
        self.outcome, self.end_text = outcome, text
        self.close()

    def _how_it_ended(self) -> tuple[Outcome, str]:
        usage = self.worker.usage(self.child, 0.5)
        if usage is None:  # it closed its pipe and lives on, or the worker is gone
            self.close()
            usage = self.worker.usage(self.child, 5.0)
            gone = (Outcome.INFRASTRUCTURE, "the worker is gone")
            return gone if usage is None else (Outcome.CRASHED, "the process closed its pipe instead of answering")
        self._usage = usage
        if usage.exit_code >= 0:
            return Outcome.CRASHED, f"the process ended by itself with exit code {usage.exit_code}"
        name = signal.Signals(-usage.exit_code).name
        if name == "SIGKILL" and usage.cpu_seconds > self.child.cpu_seconds - 1:
            return Outcome.TIMED_OUT, "it used more processor time than it is given"
        if name == "SIGKILL" and self.worker.walls.kind != "none":  # process 1 cannot send itself this signal
            return Outcome.INFRASTRUCTURE, "the machine ended the process; it may be short of memory"
        return Outcome.CRASHED, f"the process was ended by {name}"


def _as_answer(body: dict[str, Any]) -> Answer | None:
    """The answer in a reply, or None when it has not the form of one."""
    kinds = {
        "value": object,
        "error": str | None,
        "error_text": str,
        "error_lines": str,
        "args_after": tuple | None,
        "kwargs_after": dict | None,
        "grads": list,
    }
    if list(body) != list(kinds) or not all(isinstance(body[name], kind) for name, kind in kinds.items()):
        return None
    if not all(g is None or isinstance(g, Tensor) for g in body["grads"]):
        return None
    answer = Answer(**body)
    answer.error_text, answer.error_lines = answer.error_text[:MAX_TEXT], answer.error_lines[:MAX_TEXT]
    if answer.error is not None:
        answer.error, answer.value = answer.error[:300], None
        names = answer.error.split(" < ")
        if "MemoryError" in names or ("RuntimeError" in names and "can't allocate memory" in answer.error_text):
            answer.outcome = Outcome.OUT_OF_MEMORY
    return answer
