"""Everything made in a folder of results: found, searched, and put into a trash."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Set
from datetime import date, timedelta
from pathlib import Path

from magicanimate.errors import InputError
from magicanimate.files import read_json_object, write_json
from magicanimate.webui.gallery.results import StoredResult, read_result
from magicanimate.webui.gallery.trash import Trash, TrashedResult

log = logging.getLogger(__name__)

_STARS = ".stars.json"
"""File in the folder of results that names those with a star."""

_DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?")
_SEARCHED = ("prompt", "model", "scheduler", "seed")
"""Settings whose values a search looks at, beside the names of files."""


class Library:
    """The results in a folder and in the folders directly within it, as batches make them.

    What is not a result is passed over. Settings are read again only when their file has changed.

    Args:
        folder: of the results.
        only: whether a result may be seen; all of them by default.

    Attributes:
        trash: where results go that nobody wants.
    """

    def __init__(self, folder: Path, *, only: Callable[[StoredResult], bool] = lambda _: True):
        self.folder = folder
        self.trash = Trash(folder, only=only)
        self._only = only
        self._known: dict[Path, tuple[tuple[int, int], StoredResult | None]] = {}
        self._lock = threading.Lock()

    def results(self, search: str = "") -> list[StoredResult]:
        """Results that match every word of a search, the newest first.

        A word is looked for in the names of result, photo and clip, in prompt, checkpoint and scheduler, and
        in the seed.
        "2026-11-24", "2026-11", "today" and "yesterday" mean the days on which a result was made.
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
        """The same library for somebody who may not see everything."""
        limited = Library(self.folder, only=only)
        limited._known, limited._lock = self._known, self._lock
        return limited

    def id_of(self, result: StoredResult) -> str:
        """What a page calls a result by: its settings file, seen from the folder."""
        return result.settings_file.relative_to(self.folder).as_posix()

    def get(self, id: str) -> StoredResult:
        """The result that `id_of` gave this id.

        Raises:
            InputError: it is gone, or may not be seen.
        """
        for result in self.results():
            if self.id_of(result) == id:
                return result
        raise InputError("This result is not there any more; it may have been moved or deleted.")

    def delete(self, id: str) -> TrashedResult:
        """Put a result into the trash.

        Raises:
            InputError: it is gone, or cannot be moved.
        """
        return self.trash.put(self.get(id))

    @property
    def stars(self) -> frozenset[str]:
        """Names of the results that somebody gave a star."""
        try:
            names = read_json_object(self.folder / _STARS).get("names")
        except (OSError, ValueError):  # none yet, or a file that somebody broke
            return frozenset()
        return frozenset(map(str, names)) if isinstance(names, list) else frozenset()

    def star(self, names: Set[str]) -> None:
        """Give results a star; where all of them have one, take it away.

        Raises:
            InputError: the folder cannot be written to.
        """
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
        """What a settings file belongs to; from memory if it has not changed."""
        try:
            status = path.stat()
        except OSError:  # it went while we looked
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
