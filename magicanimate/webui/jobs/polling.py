"""What a page that looks at the queue every now and then has to change: decided here, drawn elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from magicanimate.webui.jobs.job import Job
from magicanimate.webui.jobs.queue import JobQueue


@dataclass(frozen=True)
class PlacedJob:
    """A job and how many others, of anybody, run before it."""

    job: Job
    before: int


@dataclass(frozen=True)
class ViewState:
    """What a page shows already.

    Attributes:
        new: the page was just opened.
        current: the job that it tells of.
        preview: the preview that it shows.
        listed: its list of jobs, without their progress.
    """

    new: bool = True
    current: PlacedJob | None = None
    preview: Any = None
    listed: tuple[PlacedJob, ...] = ()


@dataclass(frozen=True)
class JobUpdate:
    """What has changed since a page looked last.

    Attributes:
        seen: what it shows from now on, to be given to the next look.
        changed: whether it should tell something else of ``seen.current``.
        preview: a new preview, uint8 ``F h w 3``, or ``None``.
        ended: a job that has ended, and the page has not told that yet.
        relisted: whether ``seen.listed`` is another list.
    """

    seen: ViewState
    changed: bool
    preview: Any
    ended: Job | None
    relisted: bool


class JobPoller:
    """Looks at the jobs of an owner.

    A page stays with its job until that has ended, then turns to the next one that runs. When it is opened it
    turns to the one that runs, else to the one that ended last, so that nothing made meanwhile is missed.
    """

    def __init__(self, queue: JobQueue):
        self._queue = queue

    def poll(self, seen: ViewState, owner: str) -> JobUpdate:
        """Compare the queue with what a page shows."""
        jobs = self._queue.jobs(owner)
        told = seen.current.job if seen.current else None
        known = next((job for job in jobs if told is not None and job.id == told.id), None)
        job = self._choose(jobs, known, new=seen.new)
        ended = None
        if known is not None and known.is_over and not told.is_over:
            ended = known
        elif seen.new and job is not None and job.is_over:
            ended = job
        preview = job.progress.preview if job is not None and job.progress is not None else None
        now = ViewState(False, self._placed(job), preview, self._listed(jobs))
        return JobUpdate(
            seen=now,
            changed=now.current != seen.current,
            preview=None if preview is seen.preview else preview,
            ended=ended,
            relisted=now.listed != seen.listed,
        )

    @staticmethod
    def turn_to(seen: ViewState, job: Job) -> ViewState:
        """What a page has seen that now shall tell of another job, as if it had just begun to look at it."""
        return replace(seen, new=False, current=PlacedJob(replace(job, state="waiting"), -1), preview=None)

    def _choose(self, jobs: list[Job], known: Job | None, *, new: bool) -> Job | None:
        if known is not None and not known.is_over:
            return known
        running = next((job for job in jobs if job.state == "running"), None)
        if new and running is None:
            over = (job for job in jobs if job.is_over and job.ended is not None)
            return max(over, key=lambda job: job.ended, default=None)
        return running or known

    def _placed(self, job: Job | None) -> PlacedJob | None:
        return None if job is None else PlacedJob(job, self._queue.position(job.id))

    def _listed(self, jobs: list[Job]) -> tuple[PlacedJob, ...]:
        return tuple(self._placed(replace(job, progress=None)) for job in jobs)
