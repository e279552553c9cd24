"""The models as HTML: a card each, with what can be done with it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from magicanimate.checkpoints.disk import human_bytes
from magicanimate.checkpoints.locate import ModelInfo
from magicanimate.webui import views
from magicanimate.webui.models.fetching import FetchStatus

FULL_BYTES = 11_000_000_000
"""Of the released weights, all files together; what is here already is not fetched again."""

_WHAT = {
    "mini": ("Mini", "128 × 128. Comes with the program: keeps colours and poses, not faces or fine detail."),
    "full": ("Full", "512 × 512. The released MagicAnimate weights, for a graphics card with 8 GB or more."),
}

# Tells Python which button was pressed.
ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, model: button.dataset.model ?? "" });
});
"""


def model_list(models: Sequence[ModelInfo], *, current: str, fetch: FetchStatus, free: int) -> str:
    """The cards of the models with names, and of a folder in use.

    Args:
        models: see `describe_models`.
        current: name or folder of the one that animates.
        fetch: how the download of the full model stands.
        free: bytes of the disk that it would go to.
    """
    cards = [_named(model, current == model.name, fetch, free) for model in models]
    if current not in {model.name for model in models}:
        name, text = Path(current).name, f"Your own model in {current}"
        cards.append(_card(name, text, _IN_USE))
    return f'<div class="ma-models">{"".join(cards)}</div>'


_IN_USE = '<span class="ma-in-use">In use</span>'


def _named(model: ModelInfo, in_use: bool, fetch: FetchStatus, free: int) -> str:
    title, text = _WHAT[model.name]
    if model.available:
        size = f" {human_bytes(model.bytes)} on disk."
        return _card(title, text + size, _IN_USE if in_use else _button("use", "Use", model.name))
    size = human_bytes(FULL_BYTES)
    text += f" {size} to download, {human_bytes(free)} free on this disk."
    if fetch.state == "running":
        progress = views.progress_bar(fetch.progress) if fetch.progress else views.message("Connecting…")
        return _card(title, text, _button("pause", "Pause") + _button("cancel", "Cancel"), progress)
    if fetch.state == "paused":
        below = views.progress_bar(fetch.progress) if fetch.progress else ""
        return _card(title, text, _button("start", "Resume", main=True) + _button("cancel", "Cancel"), below)
    error = views.message(fetch.error, kind="error") if fetch.state == "failed" else ""
    again = f"Download ({size})" if fetch.state != "failed" else "Try again"
    return _card(title, text, _button("start", again, main=True), error)


def _card(title: str, text: str, actions: str, below: str = "") -> str:
    return (
        f'<section class="ma-model" aria-label="{html.escape(title)}"><div class="ma-model-line"><div>'
        f"<h3>{html.escape(title)}</h3><p>{html.escape(text)}</p></div>"
        f'<div class="ma-job-buttons">{actions}</div></div>{below}</section>'
    )


def _button(action: str, text: str, model: str = "full", *, main: bool = False) -> str:
    return (
        f'<button type="button" class="ma-small{" ma-main" if main else ""}" data-action="{action}" '
        f'data-model="{model}">{html.escape(text)}</button>'
    )
