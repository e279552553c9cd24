"""Pieces of HTML on the page: title, checkpoint, progress, messages, preview."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicanimate.animator import ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import Progress
from magicanimate.progress import STAGES, STAGES_IN_BYTES, time_left
from magicanimate.webui import STATIC
from magicanimate.webui.gallery.thumbnails import encode_webp
from magicanimate.webui.jobs.polling import PlacedJob
from magicanimate.webui.texts import said, tr

if TYPE_CHECKING:
    from densepose_tools.one_click import MadeMotion

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


def job_status(placed: PlacedJob) -> str:
    """How far a job is, or what has come of it."""
    job = placed.job
    if job.state == "running":
        return progress_bar(job.progress, tells=True) if job.progress else message(tr("Starting…"))
    if job.state == "waiting":
        if not placed.before:
            return message(tr("Starting…"))
        text = "Waiting for {count} job before this one.|Waiting for {count} jobs before this one."
        return message(tr(text, count=placed.before))
    if job.state == "done":
        return message(job.summary or tr("Done."), kind="done")
    if job.state == "failed":
        return message(job.error, kind="error")
    if job.state == "interrupted":
        return message(tr("This job was interrupted. Resume it below."))
    if not job.results:
        return message(tr("Cancelled."))
    return message(tr("Cancelled. The last preview is kept as {name}.", name=Path(job.results[0]).name))


def unloaded_note(minutes: float) -> str:
    """Why the next animation begins a little later."""
    text = tr(
        "The model was unloaded after {count} minute; the next video starts a little later."
        "|The model was unloaded after {count} minutes; the next video starts a little later.",
        count=int(minutes) if minutes == int(minutes) else minutes,
    )
    return f'<p class="ma-caption">{text}</p>'


def motion_made(new: MadeMotion, warning: str = "") -> str:
    """What was made of the visitor's clip, by what, and what to know of it."""
    made = new.extraction
    said = [tr("Motion clip of {count} frame.|Motion clip of {count} frames.", count=made.num_frames)]
    said.append(tr("Its colours were corrected.") if new.engine is None else tr(_FOUND_BY[new.engine]))
    if made.empty:
        text = "{count} of them shows nobody.|{count} of them show nobody."
        said.append(tr(text, count=len(made.empty)))
    if made.filled:
        text = "{count} of them repeats a neighbour.|{count} of them repeat a neighbour."
        said.append(tr(text, count=len(made.filled)))
    said.append(tr("Saved as {name}.", name=made.video.name))
    return message(" ".join(said), kind="done") + (message(warning) if warning else "")


_FOUND_BY = {
    "torch": "People were found by the released DensePose network.",
    "detectron2": "People were found by the released DensePose network (detectron2).",
    "mini": "People were found by a simple built-in detector.",
}


def picture(webp: bytes, *, label: str, css: str) -> str:
    """A picture, still or moving, in the page itself."""
    data = base64.b64encode(webp).decode()
    return f'<img class="{css}" alt="{html.escape(label)}" src="data:image/webp;base64,{data}">'


def moving_picture(webp: bytes, *, label: str) -> str:
    """A moving picture in the place of the result."""
    return picture(webp, label=label, css="ma-preview")


def preview(frames: Any) -> str:
    """Half-finished frames, uint8 ``F h w 3``, as a moving picture."""
    return moving_picture(encode_webp(frames), label="preview")
