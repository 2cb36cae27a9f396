"""The same judging on a Dask cluster: `llmcourse grade --scheduler ADDRESS`.

Submissions go out in chunks as plain JSON, the chapter's text with them, so the machines need this package and its environment but no
shared folder. What a Dask process runs is the judge; a submission's code runs in the sandboxed worker that it starts, never in it. Dask gives a
chunk that a machine took down with it to another one; keys name the content, so nothing is judged twice at the same time.

Security is Dask's own configuration (`distributed.comm.tls`, an address that begins with tls://): whoever reaches an open scheduler
owns the cluster. See docs/scaling.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grader import sandbox
from grader.course import Chapter
from grader.desk import Desk, canary_request
from grader.fingerprint import environment
from grader.pool import WorkersFailed
from grader.task import CanaryFailed, Task

CHUNK = 8
"""Submissions of one Dask task: its overhead is a few milliseconds, a submission some hundred."""
TRIES = 3
"""How often a chunk is handed out when the machines that had it fail."""
CONNECT_S = 20.0
WITHOUT_WALLS = "LLM_COURSE_UNSAFE_CLUSTER"
"""Set to 1 on a machine of the cluster, it judges there without a sandbox: for tests with trusted answers."""


def shipped(chapter: Chapter) -> dict[str, Any]:
    """What a machine of the cluster is told: the chapter's own text, and what code must be there to judge it."""
    files = {name: (chapter.folder / name).read_text(encoding="utf-8") for name in ("checks.py", "exercises.py")}
    return {"slug": chapter.slug, "files": files, "environment": environment()}


def on_cluster(
    address: str, chapter: Chapter, tasks: list[Task], seeds: dict[str, int]
) -> Iterator[tuple[Task, list[dict[str, Any]] | None, dict[str, str]]]:
    """(task, its entries or None when no machine could judge it, versions there), as they come; canaries first.

    Raises: RuntimeError when Dask is not installed or the scheduler does not answer, CanaryFailed.
    """
    try:
        from distributed import Client
    except ImportError:
        raise RuntimeError("Dask is not installed; install it with `pip install 'llm-principles[cluster]'`") from None
    setup = json.dumps(shipped(chapter), sort_keys=True)
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise RuntimeError(
            f"no Dask scheduler answers at {address} ({error}); start one as docs/scaling.md says"
        ) from None
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise RuntimeError(f"the Dask scheduler at {address} has no workers; start some as docs/scaling.md says")
        _canaries(client, setup, chapter, seeds)
        yield from _chunks(client, setup, tasks)


def _canaries(client: Any, setup: str, chapter: Chapter, seeds: dict[str, int]) -> None:
    request = canary_request(seeds, list(chapter.exercises))
    future = client.submit(run_chunk, setup, [request], key=_key("canary", setup, [request]), retries=TRIES, pure=False)
    try:
        (answer,) = json.loads(future.result())
    except Exception as error:
        raise CanaryFailed(
            f"the cluster could not judge the worked solutions ({type(error).__name__}: {error}); no score was written"
        ) from None
    if answer["canary"]:
        raise CanaryFailed(answer["canary"])


def _chunks(
    client: Any, setup: str, tasks: list[Task]
) -> Iterator[tuple[Task, list[dict[str, Any]] | None, dict[str, str]]]:
    from distributed import as_completed

    out: dict[Any, tuple[list[Task], int]] = {}

    def hand_out(chunk: list[Task], tries: int) -> Any:
        requests = [task.to_json() for task in chunk]
        key = _key(f"grade-{tries}", setup, requests)
        future = client.submit(run_chunk, setup, requests, key=key, pure=False)
        out[future] = (chunk, tries)
        return future

    waiting = as_completed([hand_out(tasks[n : n + CHUNK], 1) for n in range(0, len(tasks), CHUNK)])
    for future in waiting:
        chunk, tries = out.pop(future)
        if future.status == "finished":
            for task, answer in zip(chunk, json.loads(future.result())):
                yield task, answer["entries"], answer["versions"]
        elif tries < TRIES:
            for task in chunk:  # each alone: one that takes machines down takes no others with it
                waiting.add(hand_out([task], tries + 1))
        else:
            for task in chunk:
                yield task, None, {}


def _key(what: str, setup: str, requests: list[str]) -> str:
    """Names a piece of work by its content: handed out twice, it is done once."""
    return f"{what}-{hashlib.sha256(json.dumps([setup, requests]).encode()).hexdigest()[:32]}"


_desks = threading.local()


def run_chunk(setup: str, requests: list[str]) -> str:
    """On a machine of the cluster: the answers to `requests` as JSON, by the desk that this thread keeps for the chapter.

    Raises: RuntimeError when this machine judges with other code or versions than the supervisor's.
    """
    if getattr(_desks, "setup", None) != setup:
        if old := getattr(_desks, "desk", None):
            old.close()
        _desks.setup, _desks.desk = None, _open_desk(json.loads(setup))
        _desks.setup = setup
    try:
        return json.dumps([json.loads(_desks.desk.answer(request)) for request in requests])
    except WorkersFailed:
        _desks.setup = None
        raise


def _open_desk(told: dict[str, Any]) -> Desk:
    if told["environment"] != environment():
        raise RuntimeError(
            "this machine of the cluster has another version of the grader, of Python, NumPy or torch than the supervisor; install the same"
        )
    walls = sandbox.Walls.none() if os.environ.get(WITHOUT_WALLS) == "1" else sandbox.find_walls()
    root = Path(tempfile.mkdtemp(prefix="llmcourse-"))
    folder = root / "chapters" / told["slug"]
    folder.mkdir(parents=True)
    for name, text in told["files"].items():
        (folder / name).write_text(text, encoding="utf-8")
    try:
        return Desk(
            {"root": str(root), "slug": told["slug"], "walls": [walls.kind, walls.detail, walls.bwrap, walls.as_root]}
        )
    finally:
        shutil.rmtree(root, ignore_errors=True)  # the chapter is loaded
