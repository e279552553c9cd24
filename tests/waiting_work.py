"""Jobs for tests of the queue: they wait until they are let go."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.webui.jobs.queue import Job, JobQueue, JobResult

BEFORE_THE_WAIT = 2
"""The last step that a job reports before it waits."""


class Work:
    """A runner whose jobs wait until they are let go, one by one, or stopped.

    Attributes:
        begun: names of the jobs in the order in which they began.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.begun: list[str] = []
        self.go = threading.Semaphore(0)

    def __call__(self, request: Mapping, on_progress, should_stop) -> JobResult:
        name = request["name"]
        self.begun.append(name)
        on_progress(Progress("denoise", 1, 4, preview="picture"))
        on_progress(Progress("denoise", BEFORE_THE_WAIT, 4))
        while not self.go.acquire(timeout=0.01):
            if should_stop():
                raise Cancelled("stopped", kept=[self.folder / f"{name}.webp"])
        if "wrong" in request:
            raise (
                request["wrong"] if isinstance(request["wrong"], Exception) else InputError(request["wrong"])
            )
        result = self.folder / f"{name}.txt"
        result.write_text(name)
        return JobResult((result,), f"{name} is done.")


def submit(queue: JobQueue, *names: str, **given) -> list[Job]:
    return [queue.submit("work", {"name": name}, title=name, **given) for name in names]


def end_of(queue: JobQueue, job: Job) -> Job:
    for now in queue.follow(job.id):
        last = now
    return last


def wait_until_running(queue: JobQueue, job: Job) -> Job:
    """The job when it waits to be let go: a follower may see it earlier, between two reports."""
    return next(now for now in queue.follow(job.id) if now.progress and now.progress.step == BEFORE_THE_WAIT)
