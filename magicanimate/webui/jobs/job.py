"""One piece of work in the queue, and how it is written to disk."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from magicanimate.config import Progress
from magicanimate.files import shortened

JobState = Literal["waiting", "running", "done", "failed", "cancelled", "interrupted"]
STATES: tuple[JobState, ...] = get_args(JobState)
ENDED: tuple[JobState, ...] = ("done", "failed", "cancelled")


_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("id", "kind", "title", "owner", "state", "error", "summary"), str),
    **dict.fromkeys(("rank", "created"), _NUMBER),
    **dict.fromkeys(("started", "ended"), (*_NUMBER, type(None))),
    "request": dict,
    "results": list,
}
"""What the values in a job's file are."""


@dataclass(frozen=True)
class JobResult:
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
        """This job with the newest of its progress; the last preview stays until there is a newer one."""
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
        if not isinstance(raw, dict):
            raise ValueError("it is no job")
        given = {name: value for name, value in raw.items() if name in _KINDS}
        missing = {"id", "kind", "title", "request"} - given.keys()
        if missing:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, _KINDS[name]):
                raise ValueError(f"its {name} is {shortened(value)}")
        if not all(isinstance(path, str) for path in given.get("results", ())):
            raise ValueError("its results are no paths")
        if not _ID.fullmatch(given["id"]) or given.get("state", "waiting") not in STATES:
            raise ValueError("its id or state is none that there is")
        if not all(math.isfinite(given.get(name) or 0) for name in ("rank", "created", "started", "ended")):
            raise ValueError("its times are no numbers")
        return cls(**{**given, "results": tuple(given.get("results", ()))})
