"""What somebody looks at in a library: a page of results or of the trash, one of them, or two compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

from magicanimate.webui.gallery.library import Library
from magicanimate.webui.gallery.results import StoredResult
from magicanimate.webui.texts import tr

PER_PAGE = 12


@dataclass(frozen=True)
class GalleryState:
    """Where somebody is in the gallery.

    Attributes:
        search: words that the results must match; the trash is shown whole.
        in_trash: whether it is the trash that is looked at.
        page: of the grid, from 0.
        chosen: id of the result that is shown; empty for none.
        beside: id of the one it is compared with.
        comparing: whether the next choice is compared with the chosen one.
        undo: places in the trash of what was deleted last.
        starred: whether only results with a star are looked at.
        selected: ids of results that are chosen together, to star or delete them at once.
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
    """What there is to see.

    Attributes:
        at: where that is; the page is one that exists.
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
        """What to say where there are no entries."""
        if self.at.in_trash:
            return tr("The trash is empty.")
        if self.at.starred and not self.at.search.strip():
            return tr("No stars yet: press ☆ on a result.")
        return tr("Nothing matches the search." if self.at.search.strip() else "Nothing was made yet.")


class Gallery:
    """Walks through a library; every step takes where one is and returns where one is then.

    Args:
        library: as much of it as may be seen.
    """

    def __init__(self, library: Library):
        self.library = library

    def page(self, at: GalleryState) -> GalleryPage:
        """The page that is looked at."""
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
        """The chosen result, and the one beside it.

        Raises:
            InputError: one is not there any more.
        """
        ids = filter(None, (at.chosen, at.beside))
        if at.in_trash:
            return tuple(self.library.trash.get(id).result for id in ids)
        return tuple(self.library.get(id) for id in ids)

    def find(
        self, at: GalleryState, search: str, *, in_trash: bool = False, starred: bool = False
    ) -> GalleryState:
        """Look for something else, or into the trash; what is shown stays if it is of the same kind."""
        if in_trash != at.in_trash:
            return GalleryState(search, in_trash, undo=at.undo)
        return replace(at, search=search, page=0, starred=starred)

    def choose(self, at: GalleryState, id: str) -> GalleryState:
        """Look at a result, or put it beside the chosen one while comparing."""
        if at.comparing and at.chosen and id != at.chosen:
            return replace(at, beside=id, undo=())
        return replace(at, chosen=id, beside="", undo=())

    def compare(self, at: GalleryState) -> GalleryState:
        """Begin to compare the chosen result, or end it."""
        return replace(at, comparing=not at.comparing, beside="", undo=())

    def select(self, at: GalleryState, id: str) -> GalleryState:
        """Select one more result, or leave it out again."""
        others = tuple(each for each in at.selected if each != id)
        return replace(at, selected=others if id in at.selected else (*others, id))

    def select_none(self, at: GalleryState) -> GalleryState:
        """Select nothing any more."""
        return replace(at, selected=())

    def star(self, at: GalleryState, id: str = "") -> GalleryState:
        """Give a result, or all that are selected, a star; take it away where all of them have one.

        Raises:
            InputError: one is gone, or nothing can be written.
        """
        self.library.star({self.library.get(each).name for each in ([id] if id else at.selected)})
        return at

    def delete(self, at: GalleryState) -> GalleryState:
        """Put the selected results, or else the chosen one, into the trash.

        Raises:
            InputError: it is gone, or cannot be moved.
        """
        places = tuple(self.library.delete(id).id for id in at.selected or (at.chosen,))
        return replace(at, chosen="", beside="", comparing=False, undo=places, selected=())

    def undo(self, at: GalleryState) -> GalleryState:
        """Take back the last deletion.

        Raises:
            InputError: it is not in the trash any more, or cannot be moved.
        """
        restored = [self.library.trash.restore(place) for place in at.undo]
        chosen = self.library.id_of(restored[0]) if len(restored) == 1 else ""
        return GalleryState(at.search, page=at.page, chosen=chosen, starred=at.starred)

    def restore(self, at: GalleryState) -> GalleryState:
        """Take the chosen result out of the trash.

        Raises:
            InputError: as `undo`.
        """
        self.library.trash.restore(at.chosen)
        return replace(at, chosen="", undo=())

    def empty_trash(self, at: GalleryState) -> GalleryState:
        """Delete for good what is in the trash.

        Raises:
            InputError: something cannot be deleted.
        """
        self.library.trash.empty()
        return replace(at, chosen="", beside="", undo=())
