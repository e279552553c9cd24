"""Everything made in a folder of results: found, searched, looked through, and put into a trash."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import read_json_object, write_json
from magicanimate.webui.animate.form_values import FILES, PHOTOS
from magicanimate.webui.gallery.results import EXPORTED_FROM, StoredResult, read_result
from magicanimate.webui.gallery.trash import Trash, TrashedResult
from magicanimate.webui.texts import tr

log = logging.getLogger(__name__)

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
