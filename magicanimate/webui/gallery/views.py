"""The grid of the gallery as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from magicanimate.webui.gallery.player import file_url
from magicanimate.webui.gallery.results import StoredResult

# Tells Python which card or which page was chosen. The grid is drawn anew then; who walks through it by
# keyboard finds the focus where it was.
ON_LOAD = """
let chosen = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-id], button[data-page]");
  if (!button) return;
  chosen = { id: button.dataset.id ?? null, page: button.dataset.page ?? null };
  trigger("click", chosen);
});
watch("value", () => {
  if (!chosen || document.activeElement !== document.body) return;
  const buttons = [...element.querySelectorAll("button")];
  buttons.find((button) => chosen.id && button.dataset.id === chosen.id)?.focus({ preventScroll: true });
});
"""


@dataclass(frozen=True)
class Card:
    """One result of the grid.

    Attributes:
        id: what a click brings.
        result: what it shows.
        picture: its thumbnail; ``None`` while there is none.
        chosen: whether it is the one shown, or one of the two that are compared.
    """

    id: str
    result: StoredResult
    picture: Path | None
    chosen: bool = False


def grid(cards: Sequence[Card], *, page: int, pages: int, empty: str) -> str:
    """Cards in a grid, with buttons for the pages before and after.

    Args:
        cards: of this page.
        page, pages: which of how many, from 0.
        empty: what is said where there are no cards.
    """
    if not cards:
        return f'<div class="ma-message" role="status">{html.escape(empty)}</div>'
    return f'<div class="ma-grid">{"".join(map(_card, cards))}</div>{_pager(page, pages)}'


def _card(card: Card) -> str:
    result = card.result
    what = f"{Path(result.photo_name).stem} × {Path(result.motion_name).stem}"
    when = f"{result.made:%Y-%m-%d %H:%M}"
    if card.picture:
        picture = f'<img src="{html.escape(file_url(card.picture))}" alt="" loading="lazy">'
    else:
        picture = '<span class="ma-card-empty"></span>'
    return (
        f'<button type="button" class="ma-card" data-id="{html.escape(card.id)}" '
        f'aria-pressed="{str(card.chosen).lower()}" title="{html.escape(result.name)}">{picture}'
        f"<span>{html.escape(what)}</span><time>{when}</time>{_seed(result)}</button>"
    )


def _seed(result: StoredResult) -> str:
    seed = result.settings.get("seed")
    return "" if seed is None else f"<span>seed {html.escape(str(seed))}</span>"


def _pager(page: int, pages: int) -> str:
    if pages < 2:
        return ""
    buttons = []
    for target, text in ((page - 1, "‹ Newer"), (page + 1, "Older ›")):
        disabled = "" if 0 <= target < pages else " disabled"
        buttons.append(
            f'<button type="button" class="ma-chip" data-page="{target}"{disabled}>{text}</button>'
        )
    return f'<div class="ma-pager">{buttons[0]}<span>Page {page + 1} of {pages}</span>{buttons[1]}</div>'
