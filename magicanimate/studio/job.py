"""One piece of work in the queue, and how it is written to disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from magicanimate.config import Progress

JobState = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
STATES: tuple[JobState, ...] = get_args(JobState)
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Made:
    """What a job that is done leaves: files, the main one first, and a sentence about them."""

    files: tuple[Path, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Job:
    """A snapshot of a job; the queue makes a new one of every change.

    Attributes:
        id: letters and digits, never used again.
        kind: which runner does it.
        title: what a person calls it.
        request: what is to be done, JSON-ready; only the runner understands it.
        owner: who may see it; empty where everybody is the same person.
        state: "interrupted" means that the program ended before the job did; it runs again when told to.
        rank: jobs run in ascending order of it.
        created, started, ended: seconds since 1970.
        progress: of a running job, with the last preview that came; not written to disk.
        error: one sentence on what went wrong, of a failed job.
        summary: one sentence on what was made, of one that is done.
        results: files that were made, the main one first; of a cancelled job those that were kept.
    """

    id: str
    kind: str
    title: str
    request: Mapping[str, Any]
    owner: str = ""
    state: JobState = "waiting"
    rank: float = 0.0
    created: float = 0.0
    started: float | None = None
    ended: float | None = None
    progress: Progress | None = None
    error: str = ""
    summary: str = ""
    results: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDED

    def moved(self, progress: Progress) -> Job:
        """This job with news of its work; the last preview stays until there is a newer one."""
        if progress.preview is None and self.progress is not None:
            progress = replace(progress, preview=self.progress.preview)
        return replace(self, progress=progress)

    def to_json(self) -> dict[str, Any]:
        """What is written to disk."""
        kept = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "progress"}
        return {**kept, "request": dict(self.request), "results": list(self.results)}

    @classmethod
    def from_json(cls, raw: Any) -> Job:
        """The job that `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        known = {f.name for f in fields(cls)} - {"progress"}
        if not isinstance(raw, dict) or not isinstance(raw.get("request"), dict):
            raise ValueError("it is no job")
        missing = {"id", "kind", "title"} - raw.keys()
        if missing or raw.get("state", "waiting") not in STATES:
            raise ValueError(f"it lacks {', '.join(sorted(missing)) or 'a known state'}")
        given = {name: value for name, value in raw.items() if name in known}
        return cls(**{**given, "results": tuple(raw.get("results", ()))})
