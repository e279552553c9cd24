"""One piece of work in the queue, and the folder that keeps all of them with their uploads."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.files import read_json, sha256_of, shortened, whole_file, write_json
from magicanimate.webui.gallery.results import LARGEST_SETTINGS

log = logging.getLogger(__name__)

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
"""Types of the values in a job's file."""


@dataclass(frozen=True)
class JobResult:
    """Files that a finished job made, the main one first, and a sentence about them."""

    files: tuple[Path, ...] = ()
    summary: str = ""


@dataclass(frozen=True)
class Job:
    """A snapshot of a job; the queue makes a new one of every change.

    Attributes:
        id: letters and digits, never used again.
        kind: which runner does it.
        title: what people call it.
        request: what is to be done, JSON-ready; only the runner understands it.
        owner: who may see it; empty on a machine of one's own.
        state: "interrupted" if the program ended before the job did; somebody has to resume it.
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
        """This job with new progress; the last preview stays until there is a newer one."""
        if progress.preview is None and self.progress is not None:
            shown = self.progress
            progress = replace(progress, preview=shown.preview, preview_fps=shown.preview_fps)
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


_FOLDER = ".jobs"
_INPUTS = "inputs"


class JobFiles:
    """Files of the jobs of one output folder; one program at a time may have it.

    Args:
        output: folder of the results; the jobs are in ``.jobs`` in it.

    Raises:
        InputError: another program works there, or nothing can be written.
    """

    def __init__(self, output: Path):
        self.output = output
        self.folder = output / _FOLDER
        try:
            (self.folder / _INPUTS).mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.folder / "lock")
            self._lock.acquire(blocking=False)
        except Timeout as error:
            raise InputError(
                f"Another MagicAnimate works on the folder {output}; end it or choose another folder."
            ) from error
        except OSError as error:
            raise InputError(
                f"The folder {output} cannot be written to ({error.strerror}); choose another."
            ) from error

    def load(self) -> list[Job]:
        """The jobs on disk, in no order; any other file is named in the log and left alone."""
        jobs = []
        for file in self.folder.glob("*.json"):
            try:
                jobs.append(Job.from_json(read_json(file, most=LARGEST_SETTINGS)))
            except (OSError, ValueError) as error:
                log.warning("%s is passed over: %s", file, error)
        return jobs

    def save(self, job: Job) -> None:
        """Write a job, whole or not at all.

        Raises:
            InputError: the disk is full or gone.
        """
        path = self.folder / f"{job.id}.json"
        try:
            write_json(path, job.to_json(), indent=1)
        except OSError as error:
            raise InputError(
                f"The job cannot be kept in {self.folder} ({error.strerror}); free some room."
            ) from error

    def delete(self, job: Job) -> None:
        """Forget a job; its results stay."""
        (self.folder / f"{job.id}.json").unlink(missing_ok=True)

    def keep(self, upload: Path) -> Path:
        """A copy of an upload that stays as long as a job or a result names it.

        The copy is a hard link where the disk allows that, and is shared by uploads with the same content.

        Raises:
            InputError: the upload cannot be read, or there is no room.
        """
        try:
            kept = self.folder / _INPUTS / sha256_of(upload)[:32] / upload.name
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                link_or_copy(upload, kept)
        except OSError as error:
            raise InputError(
                f"The file {upload.name} cannot be kept for the job ({error.strerror}); upload it again."
            ) from error
        return kept

    def bytes_kept(self, jobs: Iterable[Job] | None = None) -> int:
        """Bytes of all uploads that are kept, or of those that some jobs name."""
        folder = self.folder / _INPUTS
        if jobs is None:
            return sum(size_of(kept) for kept in folder.glob("*/*"))
        named = {text for job in jobs for text in texts_of(job.request)}
        return sum(size_of(Path(value)) for value in named if value.startswith(f"{folder}{os.sep}"))

    def sweep(self, jobs: Iterable[Job]) -> None:
        """Remove the uploads that no job and no result names any more, here or one folder down."""
        named = {text for job in jobs for text in texts_of(job.request)}
        for file in (*self.output.glob("*.json"), *self.output.glob("*/*.json")):
            if file.parent != self.folder:
                named |= _texts_of(file)
        for kept in (self.folder / _INPUTS).glob("*/*"):
            if str(kept) not in named:
                kept.unlink(missing_ok=True)
        for folder in (self.folder / _INPUTS).iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def close(self) -> None:
        """Let another program have the folder."""
        self._lock.release()


def texts_of(settings: Mapping[str, Any]) -> list[str]:
    """The strings among settings, also those in lists: names of files are among them."""
    values = [value if isinstance(value, (list, tuple)) else [value] for value in settings.values()]
    return [text for value in values for text in value if isinstance(text, str)]


def size_of(file: Path) -> int:
    """Bytes of a file; 0 where there is none, which is said when it is to be kept."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link of ``source``, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        with whole_file(target) as partial:
            shutil.copyfile(source, partial)


def _texts_of(settings_file: Path) -> set[str]:
    """The strings in a result's settings; none if the file is something else."""
    try:
        settings = read_json(settings_file, most=LARGEST_SETTINGS)
    except InputError:
        return set()
    return set(texts_of(settings)) if isinstance(settings, dict) else set()
