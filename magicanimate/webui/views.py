"""What the tabs share: types and options of Gradio's handlers, and pieces of HTML.

A tab or panel is a class. Its widgets are built where the object is made, so that the code follows the page
from top to bottom; its handlers are attached later by ``connect``, since they may fill other tabs' widgets.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.progress import STAGES, STAGES_IN_BYTES, time_left
from magicanimate.webui import STATIC
from magicanimate.webui.texts import said, tr

Updates = dict[gr.components.Component, Any]
"""What a handler returns: widget -> new value or ``gr.update(...)``; widgets left out stay as they are."""

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of most events: programs may not call them, and Gradio draws no progress over the widgets."""


def refusal(error: InputError) -> dict[str, Any]:
    """An update of a `gr.HTML` that shows an error."""
    return gr.update(value=message(str(error), kind="error"), visible=True)


STYLE = STATIC / "style.css"


def title() -> str:
    """The head of the page."""
    text = tr("Make the person in your photo dance. Add a photo and a dance video.")
    return f'<header class="ma-title"><h1>MagicAnimate</h1><p>{text}</p></header>'


def caption(text: str) -> str:
    """A line in small grey letters."""
    return f'<p class="ma-caption">{text}</p>'


def empty(title: str, text: str) -> str:
    """A placeholder for what will be shown in a place, with how to get it."""
    return f'<div class="ma-empty"><b>{title}</b>{text}</div>'


# For HTML with buttons: a click on one brings its ``data-`` attributes to Python.
BUTTONS_ON_LOAD = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", { ...button.dataset });
});
"""


def button(
    text: str, *, css: str = "ma-small", hint: str = "", label: str = "", more: str = "", **data: str
) -> str:
    """A button of HTML, see `BUTTONS_ON_LOAD`.

    Args:
        text: on the button.
        css: its class.
        hint: shown while the pointer is on it.
        label: read by screen readers in place of ``text``.
        more: further attributes, as HTML.
        data: its ``data-`` attributes.
    """
    attributes = {"title": hint, "aria-label": label} | {
        f"data-{name}": value for name, value in data.items()
    }
    written = "".join(
        f' {name}="{html.escape(value)}"'
        for name, value in attributes.items()
        if value or name.startswith("data-")
    )
    return f'<button type="button" class="{css}"{written}{more}>{html.escape(text)}</button>'


def model_badge(
    defaults: ModelDefaults,
    settings: Mapping[str, Any],
    *,
    trial: Path | None = None,
    full_here: bool = False,
    choosing: bool = True,
) -> str:
    """Which model is in use and what it can do, with a button that leads to the others.

    Args:
        defaults: of the model.
        settings: of the form, as the model has them; ``remember.js`` reads them.
        trial: its folder, if it was put in place of the program's own model.
        full_here: whether the released model is on this machine.
        choosing: whether the visitor may choose another one.
    """
    size = f"{defaults.width} × {defaults.height}"
    if trial is not None:
        name, text = tr("Your own model “{name}”", name=trial.name), size
        label = tr("Other models")
    elif defaults.kind == "mini":
        name, text = tr("Mini model"), tr("{size}, sharp where the photo shows it", size=size)
        label = tr("Use the full model") if full_here else tr("Get the full model (11 GB)")
    else:
        name, text = tr("Full model") if defaults.kind == "full" else defaults.kind.capitalize(), size
        label = tr("Other models")
    action = button(label, models="") if choosing else ""
    model, own = (html.escape(text) for text in (str(trial or defaults.kind), json.dumps(settings)))
    return (
        f'<div class="ma-badge" data-model="{model}" data-settings="{own}"><span>'
        f"<b>{html.escape(name)}</b> <small>{html.escape(text)}</small></span>{action}</div>"
    )


_STAGES = {
    "load": "Loading the model",
    "download": "Downloading",
    "convert": "Converting the download",
    "read": "Reading photo and video",
    "denoise": "Making the video",
    "detail": "Refining faces and hands",
    "decode": "Saving the video",
    "detect": "Converting the video",
    "write": "Saving",
}
"""Stages for which the page has simpler words than the command line."""


def progress_bar(progress: Progress, *, notifies: bool = False, name: str = "") -> str:
    """Stage, bar, time left and notes.

    Args:
        progress: of any work.
        notifies: whether to offer a notification or a sound at the end, see ``keys.js``.
        name: of the work; that of its stage if empty.
    """
    total = max(progress.total, 1)
    percent = min(100, round(100 * progress.step / total))
    stage = name or tr(_STAGES.get(progress.stage) or STAGES.get(progress.stage, progress.stage).capitalize())
    if total == 1:
        count = ""
    elif progress.stage in STAGES_IN_BYTES:
        count = tr("{done} of {total}", done=human_bytes(progress.step), total=human_bytes(total))
    elif progress.denoising_step:
        step, steps = progress.denoising_step
        count = tr("step {step} of {steps}", step=step, steps=steps)
    else:
        count = tr("{done} of {total}", done=progress.step, total=total)
    details = " · ".join(text for text in (count, _left(progress.seconds_left)) if text)
    note = "".join(message(said(line)) for line in progress.note.splitlines())
    notify = ""
    if notifies:
        notify = button(tr("Notify me when it is done"), notify="", more=" hidden") + " "
        notify += button(tr("Sound when done"), sound="", more=' aria-pressed="false"')
    return (
        '<div class="ma-progress"><div class="ma-progress-text">'
        f"<span>{stage}</span><span>{details}</span></div>"
        f'<div class="ma-bar" role="progressbar" aria-label="{stage}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div>{notify}</div>{note}'
    )


def _left(seconds: float | None) -> str:
    return tr("{time} left", time=time_left(seconds).removesuffix(" left")) if seconds is not None else ""


def message(text: str, *, kind: str = "info") -> str:
    """One sentence in a box; ``kind`` is "info", "done" or "error"."""
    role = "alert" if kind == "error" else "status"
    text = said(text) if kind == "error" else text
    return f'<div class="ma-message ma-{kind}" role="{role}">{html.escape(text)}</div>'


def picture(webp: bytes, *, label: str, css: str) -> str:
    """A picture, still or moving, in the page itself."""
    data = base64.b64encode(webp).decode()
    return f'<img class="{css}" alt="{html.escape(label)}" src="data:image/webp;base64,{data}">'
