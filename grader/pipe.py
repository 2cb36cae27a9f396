"""The two pipes of one session: frames of data both ways, and what is printed, both watched by the clock.

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
    """One frame out, one frame in, while output is drained and the clock is watched."""

    def __init__(self, child: Child, deadline: float, printed: Printed) -> None:
        self.child, self.deadline, self.printed = child, deadline, printed

    def run(self, pieces: list[bytes]) -> wire.Message:
        """Raises: Ended, wire.ProtocolError."""
        data = self.child.data
        out = [memoryview(piece) for piece in pieces]
        frame = wire.receive()
        view = memoryview(next(frame))
        waiting = select.poll()
        waiting.register(self.child.output, select.POLLIN)
        watched = None
        while True:
            try:
                while out and (count := data.sendmsg(out[:64])):
                    while out and count >= len(out[0]):
                        count -= len(out.pop(0))
                    if count:
                        out[0] = out[0][count:]
            except BlockingIOError:
                pass
            except OSError:
                out = []  # it no longer reads; what it still has to say, or its end, comes below
            wanted = select.POLLIN | (select.POLLOUT if out else 0)
            if wanted != watched:
                waiting.register(data, watched := wanted)
            left = self.deadline - time.monotonic()
            ready = dict(waiting.poll(max(0.0, left) * 1000))
            if left <= 0:  # also when it still sends or prints a little now and then
                raise Ended(Outcome.TIMED_OUT, "it did not finish in time")
            if self.child.output in ready and not self._drain():
                waiting.unregister(self.child.output)
            if ready.get(data.fileno(), 0) & ~select.POLLOUT:
                try:
                    while True:
                        count = data.recv_into(view)
                        if count == 0:
                            raise Ended(Outcome.CRASHED, "")
                        view = view[count:]
                        if not view:
                            view = memoryview(frame.send(None))
                except BlockingIOError:
                    continue
                except StopIteration as done:
                    return wire.decode(*done.value)
                except OSError:
                    raise Ended(Outcome.CRASHED, "") from None

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
