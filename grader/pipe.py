"""The two pipes of one session: frames of data both ways, and what is printed, all watched by the clock.

Nothing here trusts the other end: it may be silent, flood either pipe, close one, or send half a frame for ever.
"""

from __future__ import annotations

import os
import select
import socket
import time

from grader import wire
from grader.exercise import Outcome
from grader.inner import Limits

KEPT_OUTPUT_BYTES = 64 << 10


class Ended(Exception):
    """A session ended instead of answering."""

    def __init__(self, outcome: Outcome, text: str) -> None:
        super().__init__(text)
        self.outcome, self.text = outcome, text


class Child:
    """One forked process as the worker's client sees it: two pipes and a number."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number, self.limits, self.cpu_seconds = number, limits, limits.cpu_seconds
        self.data, self.far_data = socket.socketpair()
        self.output, self.far_output = os.pipe()
        self.data.setblocking(False)
        os.set_blocking(self.output, False)

    def close_far_ends(self) -> None:
        self.far_data.close()
        if self.far_output >= 0:
            os.close(self.far_output)
            self.far_output = -1

    def close(self) -> None:
        self.close_far_ends()
        self.data.close()
        if self.output >= 0:
            os.close(self.output)
            self.output = -1


class Exchange:
    """Frames out and frames in, while output is drained and the clock is watched.

    Frames may be sent ahead of their answers; what the pipe does not take at once leaves while an answer is waited for.
    """

    def __init__(self, child: Child, printed: Printed) -> None:
        self.child, self.printed = child, printed
        self._inbox = wire.Inbox()
        self._out: list[memoryview] = []
        self._waiting = select.poll()
        self._waiting.register(child.output, select.POLLIN)
        self._waiting.register(child.data, select.POLLIN)
        self._watched = select.POLLIN

    def send(self, pieces: list[bytes]) -> None:
        """Puts a frame on its way. Never waits and never fails: an end that does not listen shows in its missing answer."""
        self._out += [memoryview(piece) for piece in pieces]
        self._push()

    def receive(self, deadline: float) -> wire.Message:
        """The next frame. Raises: Ended, wire.ProtocolError."""
        frame = wire.receive()
        view = self._inbox.take(memoryview(next(frame)))
        while True:
            try:
                while True:
                    while not view:
                        view = self._inbox.take(memoryview(frame.send(None)))
                    if (rest := self._inbox.read(self.child.data, view)) is None:
                        raise Ended(Outcome.CRASHED, "")
                    view = rest
            except BlockingIOError:
                self._wait(deadline)
            except StopIteration as done:
                if time.monotonic() > deadline:  # it is there, and too late
                    raise Ended(Outcome.TIMED_OUT, "it did not finish in time") from None
                return wire.decode(*done.value)
            except OSError:
                raise Ended(Outcome.CRASHED, "") from None

    def _push(self) -> None:
        try:
            while self._out and (count := self.child.data.sendmsg(self._out[:64])):
                while self._out and count >= len(self._out[0]):
                    count -= len(self._out.pop(0))
                if count:
                    self._out[0] = self._out[0][count:]
        except BlockingIOError:
            pass
        except OSError:
            self._out = []  # it no longer reads; what it still has to say, or its end, comes with the next receive

    def _wait(self, deadline: float) -> None:
        """Until there is something to read or to send, or output to take in."""
        wanted = select.POLLIN | (select.POLLOUT if self._out else 0)
        if wanted != self._watched:
            self._waiting.register(self.child.data, wanted)
            self._watched = wanted
        left = deadline - time.monotonic()
        ready = dict(self._waiting.poll(max(0.0, left) * 1000))
        if left <= 0:  # also when it still sends or prints a little now and then
            raise Ended(Outcome.TIMED_OUT, "it did not finish in time")
        if self.child.output in ready and not self._drain():
            self._waiting.unregister(self.child.output)
        if self._out:
            self._push()

    def _drain(self) -> bool:
        """Takes in what was printed; False when there will be no more."""
        try:
            text = os.read(self.child.output, 1 << 16)
        except BlockingIOError:
            return True
        self.printed.add(text)
        if self.printed.count > self.child.limits.output_bytes:
            raise Ended(Outcome.OUTPUT_LIMIT, f"it printed more than {self.child.limits.output_bytes} bytes")
        return bool(text)


class Printed:
    """What a session printed: all counted, the beginning kept."""

    def __init__(self) -> None:
        self.count, self.kept = 0, bytearray()

    def add(self, text: bytes) -> None:
        self.count += len(text)
        self.kept += text[: max(0, KEPT_OUTPUT_BYTES - len(self.kept))]

    def text(self) -> str:
        return self.kept.decode("utf-8", "replace")
