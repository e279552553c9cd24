"""The folder of a queue: one JSON file for each job, and the uploads that its jobs need."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from magicanimate.errors import InputError
from magicanimate.files import read_json, sha256_of, whole_file, write_json
from magicanimate.webui.gallery.results import LARGEST_SETTINGS
from magicanimate.webui.jobs.job import Job

log = logging.getLogger(__name__)

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
        """The jobs on disk, in no order; what is not a job is named in the log and left where it is."""
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

        The copy is a hard link where the disk allows that, and the same for the same content.

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
        """Bytes of the uploads that are kept: all of them, or those that some jobs name."""
        folder = self.folder / _INPUTS
        if jobs is None:
            return sum(_size(kept) for kept in folder.glob("*/*"))
        named = {text for job in jobs for text in texts_of(job.request)}
        return sum(_size(Path(value)) for value in named if value.startswith(f"{folder}{os.sep}"))

    def sweep(self, jobs: Iterable[Job]) -> None:
        """Remove the uploads that neither a job nor a result, here or one folder down, names any more."""
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
    """The texts among some settings, those in lists too; files are named by some of them."""
    values = [value if isinstance(value, (list, tuple)) else [value] for value in settings.values()]
    return [text for value in values for text in value if isinstance(text, str)]


def _size(file: Path) -> int:
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
    """The texts that a result's settings hold; none if it is no settings file."""
    try:
        settings = read_json(settings_file, most=LARGEST_SETTINGS)
    except InputError:
        return set()
    return set(texts_of(settings)) if isinstance(settings, dict) else set()
