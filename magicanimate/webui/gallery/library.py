"""Everything made in a folder of results: found, searched, looked through, and put into a trash."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_json_object, write_json
from magicanimate.webui.animate.form_values import FILES, PHOTOS
from magicanimate.webui.gallery.results import EXPORTED_FROM, StoredResult, read_result
from magicanimate.webui.texts import tr

log = logging.getLogger(__name__)

_BIN = ".bin"
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
    """

    id: str
    result: StoredResult
    origin: Path


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
        for note in (self.folder / _BIN).glob(f"*/{_MOVING}"):
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
        done: list[tuple[Path, Path]] = []
        try:
            for source, target in targets.items():
                os.rename(source, target)
                done.append((source, target))
        except OSError:
            for source, target in reversed(done):
                os.rename(target, source)
            raise
        (place / _MOVING).unlink()

    def results(self) -> list[TrashedResult]:
        """What is in the trash, the last one put there first."""
        places = sorted((path.parent for path in (self.folder / _BIN).glob(f"*/{_ORIGIN}")), reverse=True)
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
            self._move(self.folder / _BIN / id, {path: folder / _with_stem(path, old, new) for path in files})
            shutil.rmtree(self.folder / _BIN / id)
        except OSError as error:
            raise InputError(f"{old} cannot be taken out of the trash ({error.strerror}).") from error
        return read_result(folder / _with_stem(trashed.result.settings_file, old, new))

    def empty(self) -> int:
        """Delete everything in the trash for good; returns how many results that were."""
        gone = self.results()
        for each in gone:
            try:
                shutil.rmtree(self.folder / _BIN / each.id)
            except OSError as error:
                raise InputError(f"{each.result.name} cannot be deleted ({error.strerror}).") from error
        return len(gone)

    def _new_place(self, name: str) -> Path:
        number = 1
        while True:
            place = self.folder / _BIN / (f"{name}_{number}" if number > 1 else name)
            try:
                place.mkdir(parents=True)
                return place
            except FileExistsError:
                number += 1


def _read_place(place: Path) -> TrashedResult | None:
    """The result in a folder of the trash; ``None`` if `Trash.put` did not make it."""
    try:
        origin = Path(read_json_object(place / _ORIGIN)["folder"])
        results = [read_result(path) for path in place.glob("*.json")]
    except (OSError, ValueError, KeyError, TypeError):  # `InputError` is a ``ValueError``
        return None
    if origin.is_absolute() or ".." in origin.parts or len(results) != 1 or results[0] is None:
        return None
    return TrashedResult(place.name, results[0], origin)


def _with_stem(path: Path, old: str, new: str) -> str:
    return new + path.name.removeprefix(old)


_STARS = ".stars.json"
"""File in the folder of results that names those with a star."""

_DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?")
_SEARCHED = ("prompt", "model", "scheduler", "seed")
"""Settings whose values a search looks at, beside the names of files."""


class Library:
    """The results in a folder and in its subfolders, which batches make.

    Methods raise `InputError` if a result is gone or may not be seen, or if the disk cannot be written to.

    Other files are passed over. Settings are read again only when their file has changed.

    Args:
        folder: of the results.
        only: whether a result may be seen; all of them by default.

    Attributes:
        trash: where deleted results go.
    """

    def __init__(self, folder: Path, *, only: Callable[[StoredResult], bool] = lambda _: True):
        self.folder = folder
        self.trash = Trash(folder, only=only)
        self._only = only
        self._known: dict[Path, tuple[tuple[int, int], StoredResult | None]] = {}
        self._lock = threading.Lock()

    def results(self, search: str = "") -> list[StoredResult]:
        """Results that match every word of a search, the newest first.

        A word matches the names of result, photo and clip, the prompt, the model, the scheduler and the seed.
        "2026-11-24", "2026-11", "today" and "yesterday" match the day on which a result was made.
        """
        with self._lock:
            files = set(self._settings_files())
            for gone in self._known.keys() - files:
                del self._known[gone]
            found = [result for path in files if (result := self._result(path)) is not None]
        words = search.lower().split()
        found = [each for each in found if self._only(each) and all(_matches(each, word) for word in words)]
        return sorted(found, key=lambda each: (each.made, each.name), reverse=True)

    def limited(self, only: Callable[[StoredResult], bool]) -> Library:
        """The same library for somebody who may see only some results."""
        limited = Library(self.folder, only=only)
        limited._known, limited._lock = self._known, self._lock  # read once for everybody
        return limited

    def id_of(self, result: StoredResult) -> str:
        """What names a result on the page: its settings file, relative to the folder."""
        return result.settings_file.relative_to(self.folder).as_posix()

    def get(self, id: str) -> StoredResult:
        """The result that `id_of` gave this id."""
        for result in self.results():
            if self.id_of(result) == id:
                return result
        raise InputError("This result is not there any more; it may have been moved or deleted.")

    def delete(self, id: str) -> TrashedResult:
        """Put a result into the trash."""
        return self.trash.put(self.get(id))

    @property
    def stars(self) -> frozenset[str]:
        """Names of the results with a star."""
        try:
            names = read_json_object(self.folder / _STARS).get("names")
        except (OSError, ValueError):  # no file yet, or a damaged one
            return frozenset()
        return frozenset(map(str, names)) if isinstance(names, list) else frozenset()

    def star(self, names: Set[str]) -> None:
        """Give results a star; if all of them have one, take it from all."""
        try:
            with self._lock:
                stars = self.stars
                stars = stars - names if names <= stars else stars | names
                write_json(self.folder / _STARS, {"names": sorted(stars)})
        except OSError as error:
            raise InputError(f"The star cannot be kept ({error.strerror}); free some room.") from error

    def _settings_files(self) -> Iterator[Path]:
        yield from self.folder.glob("*.json")
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.is_dir() and not folder.name.startswith("."):
                yield from folder.glob("*.json")

    def _result(self, path: Path) -> StoredResult | None:
        """The result that a settings file belongs to; from memory if the file has not changed."""
        try:
            status = path.stat()
        except OSError:  # deleted since it was listed
            return None
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            try:
                result = read_result(path)
            except InputError as error:
                log.warning("%s", error)
                result = None
            known = self._known[path] = (stamp, result)
        return known[1] if known[1] is not None and known[1].output.exists() else None


def _matches(result: StoredResult, word: str) -> bool:
    """Whether a lower-case word is a day on which the result was made, or in its names and settings."""
    today = date.today()
    days = {"today": today, "yesterday": today - timedelta(days=1)}
    if word in days:
        return result.made.date() == days[word]
    if _DAY.fullmatch(word) and f"{result.made:%Y-%m-%d}".startswith(word):
        return True
    texts = [result.name, result.photo_name, result.motion_name]
    texts += [str(result.settings.get(name) or "") for name in _SEARCHED]
    return any(word in text.lower() for text in texts)


PER_PAGE = 12


@dataclass(frozen=True)
class GalleryState:
    """What one page shows of the gallery.

    Methods raise `InputError` if a result is gone or cannot be moved.

    Attributes:
        search: words that the results must match; the trash is not searched.
        in_trash: whether the trash is on show.
        page: of the grid, from 0.
        chosen: id of the result that is shown; empty for none.
        beside: id of the one it is compared with.
        comparing: whether the next choice is compared with the chosen one.
        undo: ids in the trash of what was deleted last.
        starred: whether only results with a star are on show.
        selected: ids of results to star or delete together.
    """

    search: str = ""
    in_trash: bool = False
    page: int = 0
    chosen: str = ""
    beside: str = ""
    comparing: bool = False
    undo: tuple[str, ...] = ()
    starred: bool = False
    selected: tuple[str, ...] = ()


@dataclass(frozen=True)
class GalleryPage:
    """One page of the grid.

    Attributes:
        at: the state it belongs to, with a page that exists.
        entries: ids and results of this page.
        pages: how many there are, at least 1.
        trashed: results in the trash.
    """

    at: GalleryState
    entries: tuple[tuple[str, StoredResult], ...]
    pages: int
    trashed: int

    @property
    def nothing(self) -> str:
        """The sentence that stands in place of an empty grid."""
        if self.at.in_trash:
            return tr("The trash is empty.")
        if self.at.starred and not self.at.search.strip():
            return tr("No stars yet: press ☆ on a result.")
        return tr("Nothing matches the search." if self.at.search.strip() else "Nothing was made yet.")


class Gallery:
    """What can be done in the gallery: each method takes a state and returns the one after it.

    Args:
        library: limited to what the visitor may see.
    """

    def __init__(self, library: Library):
        self.library = library

    def page(self, at: GalleryState) -> GalleryPage:
        """The page of the grid that a state shows."""
        trashed = self.library.trash.results()
        if at.in_trash:
            found = [(each.id, each.result) for each in trashed]
        else:
            found = [(self.library.id_of(each), each) for each in self.library.results(at.search)]
            stars = self.library.stars
            found = [entry for entry in found if entry[1].name in stars or not at.starred]
            there = {id for id, _ in found}
            at = replace(at, selected=tuple(id for id in at.selected if id in there))
        pages = max(1, -(-len(found) // PER_PAGE))
        at = replace(at, page=max(0, min(at.page, pages - 1)))
        return GalleryPage(at, tuple(found[at.page * PER_PAGE :][:PER_PAGE]), pages, len(trashed))

    def shown(self, at: GalleryState) -> tuple[StoredResult, ...]:
        """The chosen result, and the one beside it."""
        ids = filter(None, (at.chosen, at.beside))
        if at.in_trash:
            return tuple(self.library.trash.get(id).result for id in ids)
        return tuple(self.library.get(id) for id in ids)

    def find(
        self, at: GalleryState, search: str, *, in_trash: bool = False, starred: bool = False
    ) -> GalleryState:
        """Search for something else, or turn to the trash or back, which closes the chosen result."""
        if in_trash != at.in_trash:
            return GalleryState(search, in_trash, undo=at.undo)
        return replace(at, search=search, page=0, starred=starred)

    def choose(self, at: GalleryState, id: str) -> GalleryState:
        """Show a result, or put it beside the chosen one while comparing."""
        if at.comparing and at.chosen and id != at.chosen:
            return replace(at, beside=id, undo=())
        return replace(at, chosen=id, beside="", undo=())

    def compare(self, at: GalleryState) -> GalleryState:
        """Begin or end comparing the chosen result with another."""
        return replace(at, comparing=not at.comparing, beside="", undo=())

    def select(self, at: GalleryState, id: str) -> GalleryState:
        """Select one more result, or leave it out again."""
        others = tuple(each for each in at.selected if each != id)
        return replace(at, selected=others if id in at.selected else (*others, id))

    def star(self, at: GalleryState, id: str = "") -> GalleryState:
        """Give one result, or all that are selected, a star or take it away; see `Library.star`."""
        self.library.star({self.library.get(each).name for each in ([id] if id else at.selected)})
        return at

    def delete(self, at: GalleryState) -> GalleryState:
        """Put the selected results, or else the chosen one, into the trash."""
        places = tuple(self.library.delete(id).id for id in at.selected or (at.chosen,))
        return replace(at, chosen="", beside="", comparing=False, undo=places, selected=())

    def undo(self, at: GalleryState) -> GalleryState:
        """Take back the last deletion."""
        restored = [self.library.trash.restore(place) for place in at.undo]
        chosen = self.library.id_of(restored[0]) if len(restored) == 1 else ""
        return GalleryState(at.search, page=at.page, chosen=chosen, starred=at.starred)

    def restore(self, at: GalleryState) -> GalleryState:
        """Take the chosen result out of the trash."""
        self.library.trash.restore(at.chosen)
        return replace(at, chosen="", undo=())

    def empty_trash(self, at: GalleryState) -> GalleryState:
        """Delete for good what is in the trash."""
        self.library.trash.empty()
        return replace(at, chosen="", beside="", undo=())


def original(settings: Mapping[str, Any], results: Iterable[StoredResult]) -> Mapping[str, Any] | None:
    """The settings, with whole paths, of the result that settings without paths were copied from.

    Args:
        settings: from `read_settings`; they may come from anybody.
        results: the candidates.

    Returns:
        ``None`` if none fits, or if several fit that were made of different files.
    """
    from magicanimate.media.outputs import names_only

    of_the_file = (EXPORTED_FROM, "program")  # an export may have been written by another version
    wanted = {name: value for name, value in names_only(settings).items() if name not in of_the_file}
    found = [each.settings for each in results if wanted.items() <= names_only(each.settings).items()]
    files = {(*(each.get(name) for name in FILES), *(each.get(PHOTOS) or ())) for each in found}
    return found[0] if len(files) == 1 else None
