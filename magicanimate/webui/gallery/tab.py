"""The tab with all results: to look at, compare, use again, star and delete."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.gallery.library import Gallery, GalleryPage, GalleryState
from magicanimate.webui.gallery.result_panel import ResultPanel, file_url
from magicanimate.webui.gallery.results import StoredResult, Thumbnails
from magicanimate.webui.jobs.running_panel import RunningPanel
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.views import PRIVATE, Updates

_MADE, _STARRED, _TRASH = "Results", "Starred", "Trash"
_COMPARE, _STOP = "Compare with another", "Stop comparing"
_CHOOSE = "Choose a result to look at it."

# On a phone the chosen result is below the grid, out of sight.
_SHOW_CHOSEN = """
() => document.querySelector("#gallery-shown").scrollIntoView({ block: "nearest", behavior: "smooth" })
"""


class GalleryTab:
    """The tab: the grid of results on one side, the chosen one on the other.

    Args:
        service: has the folder of results.
        tab: the tab it is in.
    """

    def __init__(self, service: AnimationService, tab: gr.Tab):
        self.service, self.tab = service, tab
        self.thumbnails, self.latest = Thumbnails(service.output), Latest()
        self.state = gr.State(GalleryState())
        with gr.Row():
            with gr.Column(scale=6, min_width=320):
                self._finding()
            with gr.Column(scale=5, min_width=320, elem_id="gallery-shown"):
                self._shown()

    def _finding(self) -> None:
        with gr.Row(equal_height=True):
            self.search = gr.Textbox(
                label=tr("Search"),
                placeholder=tr("photo, clip, 2026-11-24, today"),
                max_lines=1,
                scale=2,
                min_width=170,
                elem_id="gallery-search",
            )
            self.which = gr.Radio(
                [(tr(each), each) for each in (_MADE, _STARRED, _TRASH)],
                value=_MADE,
                label=tr("Show"),
                scale=3,
                min_width=250,
                elem_id="gallery-which",
            )
        self.grid = gr.HTML("", elem_id="gallery", padding=False, apply_default_css=False, js_on_load=ON_LOAD)
        with gr.Row():
            self.folder = gr.Button(
                tr("Open the folder"), size="sm", scale=0, min_width=140, visible=not self.service.shared
            )
            self.empty = gr.Button(
                tr("Empty trash…"), size="sm", scale=0, min_width=140, visible=False, elem_id="gallery-empty"
            )
        with gr.Row(visible=False) as self.sure:
            self.keep = gr.Button(tr("Keep them"), size="sm")
            self.really = gr.Button("", size="sm", variant="stop", elem_id="gallery-really")

    def _shown(self) -> None:
        self.notice = gr.HTML(views.message(tr(_CHOOSE)), padding=False, elem_id="gallery-notice")
        self.undo = gr.Button(tr("Undo"), size="sm", visible=False, elem_id="gallery-undo")
        self.result = ResultPanel("gallery-result")
        self.restore = gr.Button(tr("Put back"), size="sm", visible=False, elem_id="gallery-restore")
        with gr.Row():
            self.compare = gr.Button(tr(_COMPARE), size="sm", visible=False, elem_id="gallery-compare")
            self.delete = gr.Button(tr("Move to trash"), size="sm", visible=False, elem_id="gallery-delete")

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What the handlers update."""
        buttons = [self.undo, self.compare, self.delete, self.restore, self.empty, self.really]
        return [self.state, self.grid, self.notice, self.sure, *buttons, *self.result.widgets]

    def connect(self, running: RunningPanel) -> None:
        """Attach the handlers.

        Args:
            running: knows who looks.
        """
        self.running = running
        several = {**PRIVATE, "concurrency_limit": 4}
        at = [self.state, running.visitor]
        self.tab.select(self._list, at, self.widgets, **several)
        # "change", as "input" is told of keys only: not of pasting, cutting and clearing.
        for changed in (self.search.change, self.which.input):
            inputs = [*at, self.search, self.which]
            changed(self._find, inputs, self.widgets, trigger_mode="always_last", **several)
        # Another card may be chosen while thumbnails are being made.
        chosen = self.grid.click(self._choose, at, self.widgets, trigger_mode="multiple", **several)
        chosen.then(fn=None, js=_SHOW_CHOSEN)
        for button, step, report in (
            (self.compare, Gallery.compare, ""),
            (self.delete, Gallery.delete, "Moved to the trash."),
            (self.undo, Gallery.undo, "It is back."),
            (self.restore, Gallery.restore, "It is among the results again."),
            (self.really, Gallery.empty_trash, "The trash is empty."),
        ):
            button.click(self._stepping(step, report), at, self.widgets, **several)
        self.empty.click(self._ask, None, self.sure, queue=False, **PRIVATE)
        self.keep.click(self._list, at, self.widgets, **several)  # goes on where the question ended it
        self.folder.click(self._open, None, self.notice, **PRIVATE)
        self.result.connect()

    def _gallery(self, visitor: str, request: gr.Request) -> Gallery:
        return Gallery(self.service.library(self.running.owner(visitor, request)))

    def _list(self, at: GalleryState, visitor: str, request: gr.Request) -> Iterator[Updates]:
        yield from self._listed(self._gallery(visitor, request), at, self._begin(request))

    def _find(
        self, at: GalleryState, visitor: str, search: str, which: str, request: gr.Request
    ) -> Iterator[Updates]:
        gallery, wanted = self._gallery(visitor, request), self._begin(request)
        found = gallery.find(at, search, in_trash=which == _TRASH, starred=which == _STARRED)
        updates = self._chosen(gallery, found) if found.in_trash != at.in_trash else {}
        yield from self._listed(gallery, found, wanted, updates)

    def _choose(
        self, at: GalleryState, visitor: str, request: gr.Request, event: gr.EventData
    ) -> Iterator[Updates]:
        """A card, or another page, was chosen in the grid."""
        gallery, wanted = self._gallery(visitor, request), self._begin(request)
        if event.page is not None:
            yield from self._listed(gallery, replace(at, page=int(event.page)), wanted)
        else:
            step, report = {
                "star": (lambda: gallery.star(at, event.id or ""), ""),
                "select": (lambda: gallery.select(at, event.id), ""),
                "none": (lambda: replace(at, selected=()), ""),
                "delete": (lambda: gallery.delete(at), "Moved to the trash."),
            }.get(getattr(event, "act", None) or "", (lambda: gallery.choose(at, event.id), ""))
            yield from self._stepped(gallery, at, step, wanted, report)

    def _stepping(self, step: Callable[[Gallery, GalleryState], GalleryState], report: str) -> Callable:
        """A handler that does ``step``; a plain function, since Gradio passes the request to no `partial`."""

        def handler(at: GalleryState, visitor: str, request: gr.Request) -> Iterator[Updates]:
            gallery, wanted = self._gallery(visitor, request), self._begin(request)
            yield from self._stepped(gallery, at, lambda: step(gallery, at), wanted, report)

        return handler

    def _begin(self, request: gr.Request) -> Callable[[], bool]:
        return self.latest.begin(request.session_hash)

    def _ask(self, request: gr.Request) -> Updates:
        """Ask whether to empty the trash. A listing that is under way ends, as it would hide the question."""
        self._begin(request)
        return {self.sure: gr.update(visible=True)}

    def _stepped(
        self,
        gallery: Gallery,
        at: GalleryState,
        step: Callable[[], GalleryState],
        wanted: Callable[[], bool],
        report: str = "",
    ) -> Iterator[Updates]:
        """Do ``step`` to the state, show the result of that, and draw the grid again."""
        try:
            at = step()
            updates = self._chosen(gallery, at, report)
        except InputError as error:
            at = replace(at, chosen="", beside="", comparing=False, undo=())
            updates = self._chosen(gallery, at) | {self.notice: views.message(str(error), kind="error")}
        yield from self._listed(gallery, at, wanted, updates, done=bool(report))

    def _listed(
        self,
        gallery: Gallery,
        at: GalleryState,
        wanted: Callable[[], bool],
        updates: Updates | None = None,
        *,
        done: bool = False,
    ) -> Iterator[Updates]:
        """Draw the grid with the thumbnails that exist, then again as each missing one is made.

        Args:
            gallery: of the visitor.
            at: what to show.
            wanted: false once the visitor has asked for something else, which draws the grid itself; then
                this ends.
            updates: to send with it.
            done: whether ``updates`` report a change to results, which is said even if it is not wanted.
        """
        # Gradio sends only what differs from the update before, and a busy browser may skip an update. So
        # each one repeats all that came before it.
        page = gallery.page(at)
        updates = (updates or {}) | {
            self.state: page.at,
            self.grid: self._drawn(page),
            self.empty: gr.update(visible=page.at.in_trash and page.trashed > 0),
            self.really: gr.update(value=tr("Delete {count} for good", count=page.trashed)),
            self.sure: gr.update(visible=False),
        }
        if not wanted():
            if done:
                yield {self.notice: updates[self.notice]}
            return
        yield updates
        for _, result in page.entries:
            if self.thumbnails.ready(result) is None and self.thumbnails.make(result) is not None:
                if not wanted():
                    return
                yield updates | {self.grid: self._drawn(page)}

    def _drawn(self, page: GalleryPage) -> str:
        marked = (page.at.chosen, page.at.beside)
        stars = self.service.library("").stars if page.entries else frozenset()
        cards = [
            Card(
                id,
                result,
                self.thumbnails.ready(result),
                chosen=id in marked,
                starred=result.name in stars,
                selected=id in page.at.selected,
                in_trash=page.at.in_trash,
            )
            for id, result in page.entries
        ]
        return grid(
            cards, page=page.at.page, pages=page.pages, empty=page.nothing, selected=len(page.at.selected)
        )

    def _chosen(self, gallery: Gallery, at: GalleryState, report: str = "") -> Updates:
        """The chosen result, or the two that are compared, and the buttons that go with them.

        Raises:
            InputError: it is not there any more.
        """
        shown = gallery.shown(at)
        match shown:
            case (first, second):
                panel = self.result.compare(first, second)
                text = tr(
                    "Left {left}, right {right}; choose another for the right.",
                    left=first.name,
                    right=second.name,
                )
            case (first,):
                panel = self.result.show(first)
                text = tr("Choose the result to compare it with.") if at.comparing else first.name
            case _:
                panel, text = self.result.hide(), tr(_CHOOSE)
        one = len(shown) == 1
        compare = gr.update(
            value=tr(_STOP if at.comparing else _COMPARE), visible=bool(shown) and not at.in_trash
        )
        return {
            **panel,
            self.state: at,
            self.notice: views.message(tr(report) if report else text, kind="done" if report else "info"),
            self.undo: gr.update(visible=bool(at.undo) and not at.in_trash),
            self.compare: compare,
            self.delete: gr.update(visible=one and not at.in_trash),
            self.restore: gr.update(visible=one and at.in_trash),
        }

    def _open(self) -> str:
        try:
            open_folder(self.service.output)
        except InputError as error:
            return views.message(said(str(error)))
        return views.message(tr("The results are in {folder}.", folder=self.service.output))


_MOST_KEPT = 1000  # visitors; for older ones whatever is under way ends


class Latest:
    """Tells a handler whether its visitor has asked for something else meanwhile."""

    def __init__(self) -> None:
        self._asked: OrderedDict[str, object] = OrderedDict()

    def begin(self, visitor: str) -> Callable[[], bool]:
        """Note a visitor's request; what is returned tells whether it is still the newest one."""
        mine = object()
        self._asked[visitor] = mine
        self._asked.move_to_end(visitor)
        while len(self._asked) > _MOST_KEPT:
            self._asked.popitem(last=False)
        return lambda: self._asked.get(visitor) is mine


def open_folder(folder: Path) -> None:
    """Open a window with the folder on the machine that the program runs on.

    Raises:
        InputError: this machine has nothing that does.
    """
    if sys.platform == "win32":
        os.startfile(folder)
        return
    program = shutil.which("open" if sys.platform == "darwin" else "xdg-open")
    if program is None:
        raise InputError(f"No file manager was found on this machine; the results are in {folder}.")
    quiet: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.Popen([program, str(folder)], start_new_session=True, **quiet)


# Tells Python which card, button or page was pressed, and puts the focus back after the grid was drawn again,
# for people who use the keyboard.
ON_LOAD = """
let chosen = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-id], button[data-page], button[data-act]");
  if (!button) return;
  const { id, page, act } = button.dataset;
  // With Ctrl or Shift a card is selected, as in any list of files.
  const several = id && !act && (event.ctrlKey || event.metaKey || event.shiftKey);
  chosen = { id: id ?? null, page: page ?? null, act: several ? "select" : (act ?? null) };
  trigger("click", chosen);
});
watch("value", () => {
  if (!chosen || document.activeElement !== document.body) return;
  const buttons = [...element.querySelectorAll("button")];
  const same = buttons.filter((button) => chosen.id && button.dataset.id === chosen.id);
  const again = same.find((button) => (button.dataset.act ?? null) === chosen.act) || same[0];
  again?.focus({ preventScroll: true });
});
"""


@dataclass(frozen=True)
class Card:
    """One result of the grid.

    Attributes:
        id: what a click brings.
        result: what it shows.
        picture: its thumbnail; ``None`` while there is none.
        chosen: whether it is on show, alone or beside another one.
        starred, selected: see `GalleryState`.
        in_trash: whether it can only be looked at and restored.
    """

    id: str
    result: StoredResult
    picture: Path | None
    chosen: bool = False
    starred: bool = False
    selected: bool = False
    in_trash: bool = False


def grid(cards: Sequence[Card], *, page: int, pages: int, empty: str, selected: int = 0) -> str:
    """Cards in a grid, with buttons for the pages before and after.

    Args:
        cards: of this page.
        page, pages: number of the page, from 0, and of all pages.
        empty: said if there are no cards.
        selected: how many results are selected, on all pages together.
    """
    if not cards:
        return f'<div class="ma-empty" role="status"><b>{html.escape(empty)}</b></div>'
    bar = ""
    if selected:
        acts = (("star", "☆ Star"), ("delete", "Move to trash"), ("none", "Select none"))
        buttons = "".join(views.button(tr(text), act=act) for act, text in acts)
        count = tr("{count} selected", count=selected)
        bar = f'<div class="ma-selection" role="status"><b>{count}</b>{buttons}</div>'
    return f'{bar}<div class="ma-grid">{"".join(map(_card, cards))}</div>{_pager(page, pages)}'


def _card(card: Card) -> str:
    result = card.result
    what = f"{Path(result.photo_name).stem} × {Path(result.motion_name).stem}"
    when = f"{result.made:%Y-%m-%d %H:%M}"
    if card.picture:
        picture = f'<img src="{file_url(card.picture)}" alt="" loading="lazy">'
    else:
        picture = '<span class="ma-card-empty"></span>'
    id = html.escape(card.id)
    corners = "" if card.in_trash else _corners(card, id, html.escape(what))
    return (
        f'<div class="ma-cell"><button type="button" class="ma-card" data-id="{id}" '
        f'aria-pressed="{str(card.chosen).lower()}" title="{html.escape(result.name)}">{picture}'
        f"<span>{html.escape(what)}</span><time>{when}</time>{_seed(result)}</button>{corners}</div>"
    )


def _corners(card: Card, id: str, what: str) -> str:
    """The buttons in a card's corners: select it, give it a star."""
    return "".join(
        f'<button type="button" class="ma-corner ma-{act}" data-act="{act}" data-id="{id}" '
        f'aria-pressed="{str(on).lower()}" aria-label="{label}: {what}" title="{label}">{mark}</button>'
        for act, on, label, mark in (
            ("select", card.selected, tr("Select"), "✓"),
            ("star", card.starred, tr("Star"), "★" if card.starred else "☆"),
        )
    )


def _seed(result: StoredResult) -> str:
    seed = result.settings.get("seed")
    return "" if seed is None else f"<span>{tr('seed {seed}', seed=html.escape(str(seed)))}</span>"


def _pager(page: int, pages: int) -> str:
    if pages < 2:
        return ""
    buttons = []
    for target, text in ((page - 1, "‹ Newer"), (page + 1, "Older ›")):
        disabled = "" if 0 <= target < pages else " disabled"
        buttons.append(views.button(tr(text), css="ma-chip", more=disabled, page=str(target)))
    place = tr("Page {page} of {pages}", page=page + 1, pages=pages)
    return f'<div class="ma-pager">{buttons[0]}<span>{place}</span>{buttons[1]}</div>'
