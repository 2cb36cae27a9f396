"""A judging process: started by `grader.pool`, fed with requests over a pipe, ended when the pipe closes.

The sandbox is started before torch is imported here, so that both come up at the same time.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """Serves requests from the pipe whose descriptor is the only argument."""
    pipe = socket.socket(fileno=int(arguments[0]))
    from grader.pool import receive, send

    text = receive(pipe)
    if text is None:
        return
    setup = json.loads(text)
    desk = Desk(setup)
    while (request := receive(pipe)) is not None:
        try:
            send(pipe, desk.answer(request))
        except (BrokenPipeError, ConnectionResetError):
            break
    desk.close()


def setup_for(root: Path, slug: str, walls: Any) -> dict[str, Any]:
    """What a desk on this machine is told when it starts."""
    return {"root": str(root), "slug": slug, "walls": [walls.kind, walls.detail, walls.bwrap, walls.as_root]}


def canary_request(seeds: dict[str, int], exercises: list[str]) -> str:
    """Asks for the canaries of some exercises."""
    return json.dumps({"canaries": exercises, "seeds": seeds})


class Desk:
    """A chapter, a warm worker and the papers at hand. `answer` takes and gives JSON texts."""

    def __init__(self, setup: dict[str, Any]) -> None:
        from grader import sandbox

        walls = sandbox.Walls(*setup["walls"])
        early = sandbox.start(walls, ("numpy",))
        import torch

        from grader import course
        from grader.task import Papers
        from grader.worker import WarmWorker

        torch.set_num_threads(1)
        self.worker = WarmWorker(walls)
        self.worker.adopt(early)
        self.chapter = course.load(setup["slug"], Path(setup["root"]))
        self.papers = Papers(self.chapter)
        self.worker.prepare_for(self.chapter)

    def answer(self, request: str) -> str:
        """{"entries": ...} for a task, {"canary": sentence or None} for canaries."""
        from grader.task import CanaryFailed, Task, judge_task, run_canaries

        data = json.loads(request)
        if "canaries" not in data:
            task = Task.from_json(request)
            entries = judge_task(self.chapter, task, self.worker, self.papers)
            told = {**self.worker.versions, "walls": self.worker.walls.kind}
            return json.dumps({"entries": entries, "versions": told})
        try:
            run_canaries(self.chapter, self.worker, data["seeds"], self.papers, data["canaries"])
        except CanaryFailed as failed:
            return json.dumps({"canary": str(failed)})
        return json.dumps({"canary": None})

    def close(self) -> None:
        """Ends the sandbox."""
        self.worker.close()


if __name__ == "__main__":
    main(sys.argv[1:])
