"""What the tabs have in common: how a handler answers, and pieces of HTML."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import Progress
from magicanimate.errors import InputError
from magicanimate.progress import STAGES, STAGES_IN_BYTES, time_left
from magicanimate.webui import STATIC, views
from magicanimate.webui.texts import said, tr

Updates = dict[gr.components.Component, Any]
"""What a handler answers: widget -> its new value, or ``gr.update(...)``."""

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Options of an event that programs may not call, and that draws no progress of Gradio's own."""


def refusal(error: InputError) -> dict[str, Any]:
    """The update of a `gr.HTML` that shows what cannot be done."""
    return gr.update(value=views.message(str(error), kind="error"), visible=True)


STYLE = STATIC / "style.css"


def title() -> str:
    """The head of the page."""
    text = tr("Make the person in your photo dance. Add a photo and a dance video.")
    return f'<header class="ma-title"><h1>MagicAnimate</h1><p>{text}</p></header>'


def caption(text: str) -> str:
    """A quiet line."""
    return f'<p class="ma-caption">{text}</p>'


def empty(title: str, text: str) -> str:
    """What stands where something will be, and how it gets there."""
    return f'<div class="ma-empty"><b>{title}</b>{text}</div>'


# Tells Python that somebody wants to see the models.
BADGE_ON_LOAD = """
element.addEventListener("click", (event) => {
  if (event.target.closest("button[data-models]")) trigger("click");
});
"""


def model_badge(
    defaults: ModelDefaults, *, trial: Path | None = None, full_here: bool = False, choosing: bool = True
) -> str:
    """Which model runs and what it can and cannot do, with a way to a better one.

    Args:
        defaults: the checkpoint's.
        trial: its folder, if it is one in place of the program's own.
        full_here: whether the released model is on this machine.
        choosing: whether the visitor may choose another one.
    """
    size = f"{defaults.width} × {defaults.height}"
    if trial is not None:
        name, text = tr("Your own model “{name}”", name=trial.name), size
        button = tr("Other models")
    elif defaults.kind == "mini":
        name, text = tr("Mini model"), tr("{size}, keeps colours and poses, not faces", size=size)
        button = tr("Use the full model") if full_here else tr("Get the full model (11 GB)")
    else:
        name, text = tr("Full model") if defaults.kind == "full" else defaults.kind.capitalize(), size
        button = tr("Other models")
    action = f'<button type="button" class="ma-small" data-models>{button}</button>' if choosing else ""
    return (
        f'<div class="ma-badge" data-model="{html.escape(str(trial or defaults.kind))}"><span>'
        f"<b>{html.escape(name)}</b> <small>{html.escape(text)}</small></span>{action}</div>"
    )


_STAGES = {
    "load": "Loading the model",
    "download": "Downloading",
    "convert": "Converting the download",
    "read": "Reading photo and video",
    "denoise": "Making the video",
    "detail": "Looking again at details",
    "decode": "Saving the video",
    "detect": "Converting the video",
    "write": "Saving",
}
"""Stages where the page has simpler words than the command line."""


def progress_bar(progress: Progress, *, tells: bool = False, name: str = "") -> str:
    """Stage, bar and time left, and what is to be said of the run.

    Args:
        progress: of any work.
        tells: whether the page tells when it is done, see ``keys.js``, and offers the ways to do that.
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
    notify = (
        ""
        if not tells
        else (
            f'<button type="button" class="ma-small" data-notify hidden>{tr("Notify me when it is done")}'
            '</button> <button type="button" class="ma-small" data-sound aria-pressed="false">'
            f"{tr('Sound when done')}</button>"
        )
    )
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
