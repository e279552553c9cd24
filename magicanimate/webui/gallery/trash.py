"""The trash of a folder of results: deleted results can be restored until it is emptied."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object, write_json
from magicanimate.webui.gallery.results import StoredResult, read_result

log = logging.getLogger(__name__)

_FOLDER = ".bin"
_ORIGIN = ".origin"
"""File beside each result in the trash that says which folder it was in."""

_MOVING = ".moving"
"""File that lists a move in progress, in or out, so that one that a kill interrupts is finished later."""


@dataclass(frozen=True)
class TrashedResult:
    """A result in the trash.

    Methods raise `InputError` if a result is not there, may not be seen or cannot be moved.

    Attributes:
        id: name of its folder in the trash.
        result: with its files there.
        origin: the folder it was in, relative to the folder of results.
        when: it was deleted.
    """

    id: str
    result: StoredResult
    origin: Path
    when: datetime


class Trash:
    """Keeps each deleted result in a folder of its own within ``.bin`` of the folder of results.

    Args:
        folder: of the results.
        only: whether a result may be seen.
    """

    def __init__(self, folder: Path, *, only: Callable[[StoredResult], bool] = lambda _: True):
        self.folder = folder
        self._only = only

    def put(self, result: StoredResult) -> TrashedResult:
        """Move a result and all files that belong to it into the trash."""
        origin = result.output.parent.relative_to(self.folder)
        try:
            place = self._new_place(f"{datetime.now():%Y%m%d-%H%M%S}_{result.name}")
            write_json(place / _ORIGIN, {"folder": origin.as_posix()}, indent=None)
            try:
                self._move(place, {path: place / path.name for path in result.companions()})
            except OSError:
                shutil.rmtree(place)
                raise
        except OSError as error:
            raise InputError(f"{result.name} cannot be moved to the trash ({error.strerror}).") from error
        return self.get(place.name)

    def finish_moves(self) -> None:
        """Finish the moves that a killed program had begun; only while no other program uses the folder."""
        for note in (self.folder / _FOLDER).glob(f"*/{_MOVING}"):
            try:
                names = {str(source): str(target) for source, target in read_json_object(note).items()}
                paths = [self.folder / name for pair in names.items() for name in pair]
                if not all(path.resolve().is_relative_to(self.folder.resolve()) for path in paths):
                    raise Unreadable(note, "it names files elsewhere")
                for source, target in names.items():
                    if (self.folder / source).exists() and not (self.folder / target).exists():
                        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
                        os.rename(self.folder / source, self.folder / target)
                note.unlink()
                if set(os.listdir(note.parent)) <= {_ORIGIN}:  # everything was taken out
                    shutil.rmtree(note.parent)
            except (InputError, OSError) as error:
                log.warning("%s is not finished: %s", note, error)

    def _move(self, place: Path, targets: dict[Path, Path]) -> None:
        """Move files within a disk, all of them or none; a kill in between is made up for later."""
        names = {
            source.relative_to(self.folder).as_posix(): target.relative_to(self.folder).as_posix()
            for source, target in targets.items()
        }
        write_json(place / _MOVING, names, indent=None)
        _move(targets)
        (place / _MOVING).unlink()

    def results(self) -> list[TrashedResult]:
        """What is in the trash, the last one put there first."""
        places = sorted((path.parent for path in (self.folder / _FOLDER).glob(f"*/{_ORIGIN}")), reverse=True)
        found = [trashed for place in places if (trashed := _read_place(place)) is not None]
        return [each for each in found if self._only(each.result)]

    def get(self, id: str) -> TrashedResult:
        """A result in the trash."""
        for trashed in self.results():
            if trashed.id == id:
                return trashed
        raise InputError("This result is not in the trash any more.")

    def restore(self, id: str) -> StoredResult:
        """Move a result back; it gets a number if its name is taken by now."""
        trashed = self.get(id)
        folder, old = self.folder / trashed.origin, trashed.result.name
        files = trashed.result.companions()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            new, number = old, 1
            while any((folder / _with_stem(path, old, new)).exists() for path in files):
                number += 1
                new = f"{old}_{number}"
            self._move(
                self.folder / _FOLDER / id, {path: folder / _with_stem(path, old, new) for path in files}
            )
            shutil.rmtree(self.folder / _FOLDER / id)
        except OSError as error:
            raise InputError(f"{old} cannot be taken out of the trash ({error.strerror}).") from error
        return read_result(folder / _with_stem(trashed.result.settings_file, old, new))

    def empty(self) -> int:
        """Delete everything in the trash for good; returns how many results that were."""
        gone = self.results()
        for each in gone:
            try:
                shutil.rmtree(self.folder / _FOLDER / each.id)
            except OSError as error:
                raise InputError(f"{each.result.name} cannot be deleted ({error.strerror}).") from error
        return len(gone)

    def _new_place(self, name: str) -> Path:
        number = 1
        while True:
            place = self.folder / _FOLDER / (f"{name}_{number}" if number > 1 else name)
            try:
                place.mkdir(parents=True)
                return place
            except FileExistsError:
                number += 1


def _read_place(place: Path) -> TrashedResult | None:
    """The result in a folder of the trash; ``None`` if `Trash.put` did not make it."""
    try:
        note = place / _ORIGIN
        origin = Path(read_json_object(note)["folder"])
        when = datetime.fromtimestamp(note.stat().st_mtime)
        results = [read_result(path) for path in place.glob("*.json")]
    except (OSError, ValueError, KeyError, TypeError):  # `InputError` is a ``ValueError``
        return None
    if origin.is_absolute() or ".." in origin.parts or len(results) != 1 or results[0] is None:
        return None
    return TrashedResult(place.name, results[0], origin, when)


def _with_stem(path: Path, old: str, new: str) -> str:
    return new + path.name.removeprefix(old)


def _move(targets: dict[Path, Path]) -> None:
    """Move files within a disk, all of them or none."""
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in targets.items():
            os.rename(source, target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            os.rename(target, source)
        raise
