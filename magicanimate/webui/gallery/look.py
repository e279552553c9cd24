"""What somebody looks at in a library: a page of its results or of its bin, one of them, or two compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from magicanimate.webui.gallery.library import Library
from magicanimate.webui.gallery.results import StoredResult

PER_PAGE = 12


@dataclass(frozen=True)
class Looking:
    """Where somebody is in the gallery.

    Attributes:
        search: words that the results must match; the bin is shown whole.
        in_bin: whether it is the bin that is looked at.
        page: of the grid, from 0.
        chosen: id of the result that is shown; empty for none.
        beside: id of the one it is compared with.
        comparing: whether the next choice is compared with the chosen one.
        undo: place in the bin of what was deleted last.
    """

    search: str = ""
    in_bin: bool = False
    page: int = 0
    chosen: str = ""
    beside: str = ""
    comparing: bool = False
    undo: str = ""


@dataclass(frozen=True)
class GalleryPage:
    """What there is to see.

    Attributes:
        at: where that is; the page is one that exists.
        entries: ids and results of this page.
        pages: how many there are, at least 1.
        binned: results in the bin.
    """

    at: Looking
    entries: tuple[tuple[str, StoredResult], ...]
    pages: int
    binned: int

    @property
    def nothing(self) -> str:
        """What to say where there are no entries."""
        if self.at.in_bin:
            return "The bin is empty."
        return "Nothing matches the search." if self.at.search.strip() else "Nothing was made yet."


class Gallery:
    """Walks through a library; every step takes where one is and returns where one is then.

    Args:
        library: as much of it as may be seen.
    """

    def __init__(self, library: Library):
        self.library = library

    def page(self, at: Looking) -> GalleryPage:
        """The page that is looked at."""
        binned = self.library.bin.results()
        if at.in_bin:
            found = [(each.id, each.result) for each in binned]
        else:
            found = [(self.library.id_of(each), each) for each in self.library.results(at.search)]
        pages = max(1, -(-len(found) // PER_PAGE))
        at = replace(at, page=max(0, min(at.page, pages - 1)))
        return GalleryPage(at, tuple(found[at.page * PER_PAGE :][:PER_PAGE]), pages, len(binned))

    def shown(self, at: Looking) -> tuple[StoredResult, ...]:
        """The chosen result, and the one beside it.

        Raises:
            InputError: one is not there any more.
        """
        ids = filter(None, (at.chosen, at.beside))
        if at.in_bin:
            return tuple(self.library.bin.get(id).result for id in ids)
        return tuple(self.library.get(id) for id in ids)

    def find(self, at: Looking, search: str, *, in_bin: bool) -> Looking:
        """Look for something else, or into the bin; what is shown stays as long as it is of the same kind."""
        if in_bin != at.in_bin:
            return Looking(search, in_bin, undo=at.undo)
        return replace(at, search=search, page=0)

    def choose(self, at: Looking, id: str) -> Looking:
        """Look at a result, or put it beside the chosen one while comparing."""
        if at.comparing and at.chosen and id != at.chosen:
            return replace(at, beside=id, undo="")
        return replace(at, chosen=id, beside="", undo="")

    def compare(self, at: Looking) -> Looking:
        """Begin to compare the chosen result, or end it."""
        return replace(at, comparing=not at.comparing, beside="", undo="")

    def delete(self, at: Looking) -> Looking:
        """Put the chosen result into the bin.

        Raises:
            InputError: it is gone, or cannot be moved.
        """
        binned = self.library.delete(at.chosen)
        return replace(at, chosen="", beside="", comparing=False, undo=binned.id)

    def undo(self, at: Looking) -> Looking:
        """Take back the last deletion.

        Raises:
            InputError: it is not in the bin any more, or cannot be moved.
        """
        restored = self.library.bin.restore(at.undo)
        return Looking(at.search, page=at.page, chosen=self.library.id_of(restored))

    def restore(self, at: Looking) -> Looking:
        """Take the chosen result out of the bin.

        Raises:
            InputError: as `undo`.
        """
        self.library.bin.restore(at.chosen)
        return replace(at, chosen="", undo="")

    def empty_bin(self, at: Looking) -> Looking:
        """Delete for good what is in the bin.

        Raises:
            InputError: something cannot be deleted.
        """
        self.library.bin.empty()
        return replace(at, chosen="", beside="", undo="")
