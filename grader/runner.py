"""What runs in the sandbox: a warm worker that forks, and in each fork the learner's code, answering calls with data.

This file, `inner`, `wire`, `calling`, `policy` and `exercise` are all of the grader that a sandbox can see. None of them knows a
chapter, a reference or an expected value. `grader.sandbox` starts a Python that settles (`inner.settle`) and calls `main`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import linecache
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import torch

from grader import calling, inner, policy, wire
from grader.calling import Call
from grader.exercise import Answer, Code

DATA_DESCRIPTOR = 3
MAX_HANDLES = 10_000


def main(arguments: list[str]) -> None:
    """The warm worker: says it is ready, then forks for each request until the pipe closes.

    `arguments`: the pipe's descriptor, "walls" or "open", then modules to import beforehand.
    """
    control = socket.socket(fileno=int(arguments[0]))
    walls = arguments[1] == "walls"
    for name in arguments[2:]:
        importlib.import_module(name)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _warm_up()
    gc.collect()
    gc.disable()
    gc.freeze()  # shared pages stay shared after a fork
    try:
        with _Worker(control, walls) as worker:
            worker.tell(event="ready", python=sys.version.split()[0], torch=torch.__version__)
            worker.serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the supervisor is gone


def _warm_up() -> None:
    """Uses what nearly every answer uses, so that no fork does it for the first time (some of it looks into /proc)."""
    main_module = sys.modules["__main__"]
    x = torch.ones(4, 4)
    torch.nn.functional.linear(x.softmax(-1), x, x[0]).sum().item()
    torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])
    (x.double() @ x.double()).exp().std().item()
    torch.randn(2, generator=torch.Generator().manual_seed(0))
    torch.default_generator.manual_seed(0)
    submission = _Submission()
    submission.load([], {"f": "def f(x): return x * 2"}, {}, [], ["f"])
    frame = b"".join(wire.encode("call", "", Call("f", (x.detach(),), {}, (0,), (x.detach(),)).body))
    message = wire.read(frame)
    wire.encode("answer", "", submission.call(**message.body))
    sys.modules["__main__"] = main_module
    if (threads := threading.active_count()) > 1:
        raise RuntimeError(f"the warm worker must have one thread to fork safely, it has {threads}")


class _Worker:
    """Reads requests (`fork`, `kill`) from the supervisor and reports exits, one JSON object a line."""

    def __init__(self, control: socket.socket, walls: bool) -> None:
        self.control, self.walls = control, walls
        self.children: dict[int, int] = {}  # process id -> session
        self.text = b""
        self.descriptors: list[int] = []

    def __enter__(self) -> _Worker:
        self.wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        os.set_blocking(self.wakeup, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(self, *error: object) -> None:
        for pid in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def tell(self, **event: Any) -> None:
        self.control.sendall(json.dumps(event).encode() + b"\n")

    def serve(self) -> None:
        waiting = select.poll()
        waiting.register(self.control, select.POLLIN)
        waiting.register(self.wakeup, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self.wakeup in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 4096)
                self.reap()
            if self.control.fileno() in ready:
                text, descriptors, _, _ = socket.recv_fds(self.control, 65536, 16)
                if not text:
                    return
                self.text += text
                self.descriptors += descriptors
                *lines, self.text = self.text.split(b"\n")
                for line in lines:
                    self.handle(json.loads(line))

    def handle(self, request: dict[str, Any]) -> None:
        if request["do"] == "prepare":
            _prepare(request["sources"], request["forbids"])
        elif request["do"] == "fork":
            data, output = self.descriptors[:2]
            del self.descriptors[:2]
            pid = inner.fork(serve_submission, (data, output), inner.Limits(**request["limits"]), self.walls)
            self.children[pid] = request["session"]
            os.close(data)
            os.close(output)
        elif request["do"] == "kill":
            for pid, session in self.children.items():
                if session == request["session"]:
                    os.kill(pid, signal.SIGKILL)

    def reap(self) -> None:
        while self.children:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.tell(
                event="exit",
                session=self.children.pop(pid, -1),
                code=os.waitstatus_to_exitcode(status),
                cpu=usage.ru_utime + usage.ru_stime,
                peak=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                worker=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            )


def serve_submission() -> None:
    """In the fork, behind all walls: answers the judge's messages until it closes the pipe."""
    gc.enable()
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", errors="replace"), open(2, "w", errors="replace")  # noqa: SIM115
    submission, inbox = _Submission(), wire.Inbox()
    with socket.socket(fileno=DATA_DESCRIPTOR) as pipe:
        pipe.sendall(b"".join(wire.encode("ready", "", {})))
        while (frame := _receive(pipe, inbox)) is not None:
            reply = submission.answer(*frame)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            pipe.setblocking(True)
            pipe.sendall(b"".join(reply))
    os._exit(0)


def _receive(pipe: socket.socket, inbox: wire.Inbox) -> tuple[bytes, list[bytearray]] | None:
    frame = wire.receive()
    pipe.setblocking(True)  # whoever duplicates the descriptor shares this flag, and may have changed it
    try:
        while True:
            view = inbox.take(memoryview(next(frame)))
            while view:
                rest = inbox.read(pipe, view)
                if rest is None:
                    return None
                view = rest
    except StopIteration as done:
        return done.value


class _Arguments:
    """A call's arguments as they came, to tell cheaply that the call left them alone."""

    PLAIN = (int, float, str, bytes, bool, complex, type(None))

    def __init__(self, buffers: list[bytearray]) -> None:
        self.buffers, self.copies = buffers, [bytes(b) for b in buffers]
        self.forms: list[tuple[Any, ...]] | None = None

    def note(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Looks at the arguments before the call. Only plain values and tensors are told cheaply."""
        values = [*args, *kwargs.values()]
        if all(type(v) in self.PLAIN or type(v) is torch.Tensor for v in values):
            self.forms = [self.form(v) for v in values]

    @staticmethod
    def form(value: Any) -> tuple[Any, ...]:
        if type(value) is torch.Tensor:
            return (id(value), value.data_ptr(), value.shape, value.stride(), value.dtype, value.layout)
        return (id(value),)

    def unchanged(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Whether the same objects hold the same bytes in the same form."""
        if self.forms is None or any(b != c for b, c in zip(self.buffers, self.copies)):
            return False
        return self.forms == [self.form(v) for v in (*args, *kwargs.values())]


class _Submission:
    """One submission's namespace, the objects it keeps, and how calls on them are answered."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.namespace = vars(self.module)
        self.kept: list[Any] = []
        self.withheld = policy.Withheld(())
        self.arguments = _Arguments([])

    def answer(self, header: bytes, buffers: list[bytearray]) -> list[bytes]:
        message = wire.decode(header, buffers, open_handle=lambda handle: self.kept[handle.id])
        self.arguments = _Arguments(buffers)
        does = {"load": self.load, "call": self.call, "method": self.method, "attribute": self.attribute}[message.kind]
        body = does(**message.body)
        try:
            return wire.encode("answer", message.nonce, body, keep=self.keep)
        except BaseException as error:
            return wire.encode("answer", message.nonce, self.unsendable(body, error), keep=self.keep)

    def keep(self, value: Any) -> wire.Handle:
        if len(self.kept) >= MAX_HANDLES:
            raise wire.WireError(f"more than {MAX_HANDLES} objects that are no data")
        self.kept.append(value)
        return wire.Handle(len(self.kept) - 1, type(value).__name__)

    def unsendable(self, body: dict[str, Any], error: BaseException) -> dict[str, Any]:
        """The answer when a value or the arguments cannot be sent: without the arguments if that is enough."""
        without = {**body, "args_after": None, "kwargs_after": None}
        try:
            wire.encode("answer", "", without, keep=self.keep)
            return without
        except BaseException:
            what = (
                f"what came back cannot be read: {error}"
                if isinstance(error, wire.WireError)
                else "what came back cannot be read"
            )
            return _body(Answer(error=calling.error_name(error), error_text=what))

    def load(
        self,
        given: list[str],
        cells: dict[str, str],
        replace: dict[str, str],
        forbids: list[str],
        functions: list[str],
    ) -> dict[str, Any]:
        """Runs the cells; answers with the error of each cell that has one, and those of `functions` that nothing defined."""
        random.seed(0)
        torch.default_generator.manual_seed(0)
        _install_stubs(self.module)
        errors: dict[str, list[str]] = {}
        for n, source in enumerate(given):
            if failed := _run(source, f"given {n + 1}", self.namespace):
                errors[f"given {n + 1}"] = failed
        before = dict(self.namespace)
        defined: set[str] = set()
        self.withheld = policy.Withheld(forbids)
        with self.withheld:
            for name, source in cells.items():
                known = dict(self.namespace)
                if failed := _run(source, name, self.namespace):
                    errors[name] = failed
                if name not in replace:
                    defined |= {n for n, v in self.namespace.items() if n not in known or known[n] is not v}
        ours = dict(before)  # one for all: our solutions build on each other, never on the learner's
        for name, source in replace.items():
            if failed := _run(source, f"solution of {name}", ours):
                errors[f"solution of {name}"] = failed
            made = {n: v for n, v in ours.items() if callable(v) and before.get(n) is not v and not n.startswith("_")}
            self.namespace.update({n: v for n, v in made.items() if n == name or n not in defined})
        return {"errors": errors, "missing": [f for f in functions if not callable(self.namespace.get(f))]}

    def call(self, function: str, args: tuple, kwargs: dict[str, Any], grad: list, cotangents: list) -> dict[str, Any]:
        if function not in self.namespace:
            return _body(Answer(error="NameError < Exception", error_text=f"name {function!r} is not defined"))
        return self.ask(self.namespace[function], args, kwargs, grad, cotangents)

    def method(self, handle: Any, name: str, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
        return self.ask(lambda *a, **k: getattr(handle, name)(*a, **k), args, kwargs)

    def attribute(self, handle: Any, name: str) -> dict[str, Any]:
        return self.ask(lambda: getattr(handle, name), (), {})

    def ask(
        self, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any], grad: Any = (), cotangents: Any = ()
    ) -> dict[str, Any]:
        try:
            args, kwargs = _built(args), _built(kwargs)
            self.arguments.note(args, kwargs)
            with self.withheld:
                said = _body(calling.answer_of(function, args, kwargs, grad, cotangents, quiet=False, with_args=False))
                if self.arguments.unchanged(args, kwargs):
                    return {**said, "args_after": True, "kwargs_after": True}
                return {**said, "args_after": calling.snapshot(args), "kwargs_after": calling.snapshot(kwargs)}
        except BaseException as error:
            return _body(
                Answer(error=calling.error_name(error), error_text=_text(error), error_lines=calling.own_lines(error))
            )


def _body(answer: Answer) -> dict[str, Any]:
    return {
        "value": answer.value,
        "error": answer.error,
        "error_text": answer.error_text,
        "error_lines": answer.error_lines,
        "args_after": answer.args_after,
        "kwargs_after": answer.kwargs_after,
        "grads": answer.grads,
    }


def _built(value: Any) -> Any:
    """Decoded data shares nothing already; only `Code` in it is made into what it stands for."""
    if type(value) is Code:
        return Code(value.source, _built(value.args)).build()
    if type(value) in (list, tuple):
        return type(value)(_built(v) for v in value)
    if type(value) is dict:
        return {k: _built(v) for k, v in value.items()}
    return value


_COMPILED: dict[tuple[str, str], types.CodeType] = {}
"""Cells of the course's own, by file name and source. Filled in the worker, before any fork; a learner's cell is compiled in its fork."""


def _prepare(sources: list[str], forbids: list[list[str]]) -> None:
    """Compiles the chapter's given cells and looks up what its exercises forbid, for all forks to come."""
    _COMPILED.clear()
    for n, source in enumerate(sources):
        with contextlib.suppress(SyntaxError):  # whoever runs it is told
            _COMPILED[f"<given {n + 1}>", source] = compile(source, f"<given {n + 1}>", "exec", dont_inherit=True)
    for names in forbids:
        policy.Withheld(names)
    gc.collect()
    gc.freeze()


def _run(source: str, name: str, namespace: dict[str, Any]) -> list[str]:
    """[exception name, text, the learner's own lines], or nothing when the cell ran."""
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    try:
        code = _COMPILED.get((filename, source)) or compile(source, filename, "exec", dont_inherit=True)
        exec(code, namespace)
    except BaseException as error:
        return [calling.error_name(error), _text(error), calling.own_lines(error)]
    return []


def _text(error: BaseException) -> str:
    try:
        return str(error)[: calling.MAX_TEXT]
    except BaseException:
        return "(its message cannot be shown)"


def _install_stubs(module: types.ModuleType) -> None:
    """What a notebook has and a sandbox lacks: `display`, and `check`, `grade`, `progress`, which do nothing here."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    sys.modules["__main__"] = module
    vars(module).update(display=nothing)
    import grader

    for name in ("check", "grade", "progress"):
        setattr(grader, name, nothing)
