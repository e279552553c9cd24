"""Jobs and their queue, which runs one after the other in the background and survives the program's end.

The queue does not know what its jobs do; a runner for each kind does. Every change is written to disk before
anybody sees it.

Short work that may end with the page needs no job: see `run_with_progress`.
"""

from __future__ import annotations

import logging
import math
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from filelock import FileLock, Timeout

from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
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
            with suppress(InputError):  # it is no result
                settings = {} if file.parent == self.folder else read_json(file, most=LARGEST_SETTINGS)
                named |= set(texts_of(settings)) if isinstance(settings, dict) else set()
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


Runner = Callable[[Mapping[str, Any], OnProgress, ShouldStop], JobResult]
"""Does the work of a request; may raise `InputError`, or `Cancelled` with the files that remain."""

_FOLLOW_EVERY = 0.1  # seconds
_OVER_KEPT = 30  # of the jobs that have ended, so many stay in the list


class JobQueue:
    """Runs jobs in order in a thread of its own.

    Jobs that waited or ran when the program ended, even by a kill, are "interrupted" when the queue is made
    again: `go_on` runs them, `remove` forgets them. Every method may be called from any thread.

    Args:
        output: folder of the results; the jobs are in ``.jobs`` in it.
        runners: by the kind of job.
        most_waiting: jobs that may wait; more are turned away.
        per_owner: bytes of uploads that are kept for one owner's jobs; ``None`` for no limit.
        in_all: the same for all jobs and results.

    Raises:
        InputError: another program works on the folder, or it cannot be written to.
    """

    def __init__(
        self,
        output: Path,
        runners: Mapping[str, Runner],
        *,
        most_waiting: int | None = None,
        per_owner: int | None = None,
        in_all: int | None = None,
    ):
        self._files = JobFiles(output)
        self._per_owner, self._in_all = per_owner, in_all
        self._runners = dict(runners)
        self._most_waiting = most_waiting
        self._changed = threading.Condition(threading.RLock())
        # Held while uploads are copied for a job, so that no sweep removes them before the job is there.
        # Taken before ``_changed``, never after it.
        self._inputs = threading.Lock()
        self._stop = threading.Event()  # of the running job
        self._closed = False
        self._worker: threading.Thread | None = None
        self._jobs: dict[str, Job] = {}
        for job in self._files.load():
            if not job.is_over:
                job = replace(job, state="interrupted")
                self._files.save(job)
            self._jobs[job.id] = job
        self._files.sweep(self._jobs.values())

    @property
    def folder(self) -> Path:
        """Where the jobs and their uploads are."""
        return self._files.folder

    def submit(
        self,
        kind: str,
        request: Mapping[str, Any],
        *,
        title: str = "",
        owner: str = "",
        uploads: Sequence[str] = (),
    ) -> Job:
        """Put a job at the end of the queue.

        Args:
            kind: of the runner.
            request: for the runner, JSON-ready.
            title: what people call it; the kind if empty.
            owner: who may see it.
            uploads: keys of ``request`` that name files (one or a list) which may vanish: they are copied,
                and the job's request names the copies.

        Raises:
            InputError: too many jobs wait, or an upload or the job cannot be kept: the disk is full, or the
                limits of uploads are reached even without the jobs that failed or were cancelled.
        """
        if kind not in self._runners:
            raise ValueError(f"no runner for {kind!r}; there are {', '.join(self._runners)}")
        with self._changed:
            waiting = sum(job.state == "waiting" for job in self._jobs.values())
            if self._most_waiting is not None and waiting >= self._most_waiting:
                raise InputError("The queue is full; try again when one of the jobs that wait has ended.")
        with self._inputs:
            kept = self._with_kept_uploads(request, uploads, owner)
            with self._changed:
                rank = max((job.rank for job in self._jobs.values()), default=0.0) + 1
                job = Job(
                    secrets.token_hex(8), kind, title or kind, kept, owner, rank=rank, created=time.time()
                )
                self._put(job)
                self._work()
        return job

    def jobs(self, owner: str | None = None) -> list[Job]:
        """All jobs, or one owner's, in the order in which they run or ran."""
        with self._changed:
            mine = [job for job in self._jobs.values() if owner is None or job.owner == owner]
        return sorted(mine, key=lambda job: (job.rank, job.created, job.id))

    def get(self, job_id: str) -> Job | None:
        """The job of that id as it is now, or ``None`` when there is none (any more)."""
        with self._changed:
            return self._jobs.get(job_id)

    def position(self, job_id: str) -> int:
        """How many jobs, of anybody, run before a waiting one; 0 for the next or the running one."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.state != "waiting":
                return 0
            before = [other for other in self._jobs.values() if other.state in ("running", "waiting")]
            return sum(other.state == "running" or other.rank < job.rank for other in before if other != job)

    def follow(self, job_id: str, *, at_least_every: float = math.inf) -> Iterator[Job]:
        """Yield a job whenever it has changed, a few times a second, until it has ended or is removed.

        Args:
            job_id: its id.
            at_least_every: seconds after which it is yielded again although nothing has changed, so that
                Gradio, which ends an iterator only after an item, notices that its reader has left.
        """
        seen, yielded_at = None, -math.inf
        while (job := self.get(job_id)) is not None:
            if job is not seen or time.monotonic() - yielded_at >= at_least_every:
                yield job
                seen, yielded_at = job, time.monotonic()
            if job.is_over or self._closed:
                return
            time.sleep(_FOLLOW_EVERY)

    def cancel(self, job_id: str) -> None:
        """Stop a running job, or end a waiting one; one that has ended stays as it is."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.is_over:
                return
            if job.state == "running":
                self._stop.set()
            else:
                self._put(replace(job, state="cancelled", ended=time.time()))

    def remove(self, job_id: str) -> None:
        """Take a job off the list; a running one is only stopped, as by `cancel`. Results stay."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.state == "running":
                self.cancel(job_id)
                return
            self._forget(job)
        with self._inputs:
            self._files.sweep(self.jobs())

    def move(self, job_id: str, *, by: int) -> None:
        """Move a waiting job by so many places among its owner's: -1 is one earlier, 2 two later."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.state != "waiting":
                return
            mine = [other for other in self.jobs(job.owner) if other.state == "waiting"]
            place = mine.index(job) + by
            if by and 0 <= place < len(mine):
                ranks = [other.rank for other in mine]
                mine.insert(place, mine.pop(mine.index(job)))
                for other, rank in zip(mine, ranks, strict=True):
                    if other.rank != rank:
                        self._put(replace(other, rank=rank))

    def edit(
        self, job_id: str, request: Mapping[str, Any], *, title: str = "", uploads: Sequence[str] = ()
    ) -> Job:
        """Change the request of a job that has not begun, in its place; an interrupted one waits again.

        Raises:
            InputError: it has begun, has ended or is not there any more.
        """
        with self._inputs:
            before = self.get(job_id)
            kept = self._with_kept_uploads(request, uploads, before.owner if before else "")
            with self._changed:
                job = self._jobs.get(job_id)
                if job is None or job.state not in ("waiting", "interrupted"):
                    raise InputError("This job has begun already, so it cannot be changed; make a new one.")
                job = replace(job, request=kept, title=title or job.title, state="waiting")
                self._put(job)
                self._work()
        return job

    def again(self, job_id: str) -> Job:
        """Submit the request of a job that has ended once more, as a new job.

        Raises:
            InputError: it is not there any more.
        """
        job = self.get(job_id)
        if job is None:
            raise InputError("This job is not in the list any more; make a new one.")
        return self.submit(job.kind, job.request, title=job.title, owner=job.owner)

    def go_on(self, owner: str | None = None) -> int:
        """Let interrupted jobs, all or one owner's, wait for their turn again; returns how many."""
        with self._changed:
            found = [job for job in self.jobs(owner) if job.state == "interrupted"]
            for job in found:
                self._put(replace(job, state="waiting", started=None, ended=None))
            self._work()
        return len(found)

    def close(self) -> None:
        """End the queue; the running job stops after its context window and is offered at the next start."""
        with self._changed:
            self._closed = True
            self._stop.set()
            self._changed.notify_all()
        if self._worker is not None:
            self._worker.join()
        self._files.close()

    def _with_kept_uploads(
        self, request: Mapping[str, Any], uploads: Sequence[str], owner: str
    ) -> dict[str, Any]:
        if not uploads:
            return dict(request)
        files = {key: texts_of({key: request[key]}) for key in uploads}
        self._make_room(sum(size_of(Path(file)) for each in files.values() for file in each), owner)
        kept: dict[str, Any] = {
            key: [str(self._files.keep(Path(file))) for file in each] for key, each in files.items()
        }
        return {
            **request,
            **{key: each[0] if isinstance(request[key], str) else each for key, each in kept.items()},
        }

    def _make_room(self, coming: int, owner: str) -> None:
        """Forget jobs without results, the oldest first, until the limits hold with ``coming`` more bytes.

        Raises:
            InputError: they cannot be made to hold.
        """
        for most, whose, description in (
            (self._per_owner, owner, "of your jobs"),
            (self._in_all, None, "of all jobs and results"),
        ):
            while most is not None:
                kept = self._files.bytes_kept(None if whose is None else self.jobs(whose))
                if kept + coming <= most:
                    break
                with self._changed:
                    job = next((job for job in self.jobs(whose) if job.is_over and not job.results), None)
                    if job is None:
                        raise InputError(
                            f"The photos and clips {description} take {human_bytes(kept)}, and no more "
                            f"than {human_bytes(most)} are kept; remove some jobs or results, or use smaller "
                            "files."
                        )
                    self._forget(job)
                self._files.sweep(self.jobs())

    def _put(self, job: Job) -> None:
        """Make a change known, on disk before anywhere else.

        Raises:
            InputError: the disk is full or gone.
        """
        self._files.save(job)
        self._jobs[job.id] = job
        self._changed.notify_all()

    def _forget(self, job: Job) -> None:
        self._files.delete(job)
        del self._jobs[job.id]
        self._changed.notify_all()

    def _work(self) -> None:
        """Wake the worker thread, which is started with the first job."""
        if self._worker is None and not self._closed:
            self._worker = threading.Thread(target=self._run_all, name="jobs", daemon=True)
            self._worker.start()
        self._changed.notify_all()

    def _run_all(self) -> None:
        while (job := self._begin_next()) is not None:
            if self._finish(job.id, **self._outcome(job)):
                with self._inputs:
                    self._files.sweep(self.jobs())

    def _begin_next(self) -> Job | None:
        """Wait for a job and mark it as running; ``None`` when the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next() is not None)
            if self._closed:
                return None
            job = replace(self._next(), state="running", started=time.time())
            self._stop.clear()
            self._note(job)
            return job

    def _next(self) -> Job | None:
        return next((job for job in self.jobs() if job.state == "waiting"), None)

    def _outcome(self, job: Job) -> dict[str, Any]:
        """Run a job and tell how it ended, as fields of `Job`."""
        run = self._runners.get(job.kind)
        if run is None:
            return {"state": "failed", "error": f"This program does not know how to do a job {job.kind!r}."}
        try:
            made = run(job.request, lambda progress: self._moved(job.id, progress), self._stop.is_set)
            return {"state": "done", "results": tuple(map(str, made.files)), "summary": made.summary}
        except Cancelled as stopped:
            if not self._closed:
                return {"state": "cancelled", "results": tuple(map(str, stopped.kept))}
            for file in stopped.kept:  # the job will run from the beginning
                file.unlink(missing_ok=True)
            return {"state": "interrupted"}
        except InputError as error:
            return {"state": "failed", "error": str(error)}
        except Exception:  # a fault in the program must not end the queue
            log.exception("job %s failed", job.id)
            return {"state": "failed", "error": f"Something went wrong; the log tells more of job {job.id}."}

    def _moved(self, job_id: str, progress: Progress) -> None:
        with self._changed:
            self._jobs[job_id] = self._jobs[job_id].moved(progress)
            self._changed.notify_all()

    def _finish(self, job_id: str, **outcome: Any) -> bool:
        """Record how a job ended; returns whether older jobs dropped off the list."""
        with self._changed:
            self._note(replace(self._jobs[job_id], progress=None, ended=time.time(), **outcome))
            # By rank, not by time: clocks are set back.
            forgotten = [job for job in self.jobs() if job.is_over][:-_OVER_KEPT]
            for job in forgotten:
                self._forget(job)
        return bool(forgotten)

    def _note(self, job: Job) -> None:
        """As `_put` for the worker thread, which a full disk must not end."""
        try:
            self._put(job)
        except InputError as error:
            log.error("%s", error)
            self._jobs[job.id] = job
            self._changed.notify_all()


Result = TypeVar("Result")

_UPDATE_EVERY, _AT_LEAST_EVERY = 0.2, 1.0  # seconds


def run_with_progress(work: Callable[[OnProgress, ShouldStop], Result]) -> Iterator[Progress | Result]:
    """Yield the newest progress a few times a second, and at last what ``work`` returns.

    Closing the iterator asks the work to stop and waits until it has.

    Raises:
        Exception: what ``work`` raises.
    """
    newest = yielded = None
    yielded_at = 0.0
    stop = threading.Event()

    def report(progress: Progress) -> None:
        nonlocal newest
        newest = progress

    with ThreadPoolExecutor(max_workers=1) as worker:
        job = worker.submit(work, report, stop.is_set)
        try:
            while True:
                try:
                    yield job.result(timeout=_UPDATE_EVERY)
                    return
                except TimeoutError:
                    if job.done():  # the work itself raised it
                        raise
                update, now = newest, time.monotonic()
                # The same progress again each second: Gradio closes the iterator of a visitor who has left
                # only after the next item.
                if update is not None and (update is not yielded or now - yielded_at >= _AT_LEAST_EVERY):
                    yielded, yielded_at = update, now
                    yield update
        finally:
            stop.set()
