"""Pieces of HTML on the page: title, checkpoint, progress, messages, preview."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densepose_tools.engine_choice import ENGINE_NAMES
from magicanimate.animator import ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import Progress
from magicanimate.webui import STATIC
from magicanimate.webui.gallery.moving_picture import encode_webp
from magicanimate.webui.jobs.watch import PlacedJob
from magicanimate.wording import STAGES, STAGES_IN_BYTES, time_left

if TYPE_CHECKING:
    from densepose_tools.one_click import MadeMotion

STYLE = STATIC / "style.css"

TITLE = """
<header class="ma-title">
  <h1>MagicAnimate</h1>
  <p>A photo and the movements of somebody else make a video. The movements come as a DensePose clip, a video
  in which every part of the body has its own colour; it can be made here of any other video.</p>
</header>
"""

CONSENT = '<p class="ma-note">A photo of a real person? Animate it only if that person agrees.</p>'


def checkpoint_note(defaults: ModelDefaults, *, trial: Path | None = None) -> str:
    """Which checkpoint runs, and what may be expected of it.

    Args:
        defaults: the checkpoint's.
        trial: its folder, if it is one that was trained here and is being tried.
    """
    size = f"{defaults.width} x {defaults.height} pixels"
    if trial is not None:
        text = (
            f"<b>You are trying a checkpoint of your own</b> ({size}), <code>{html.escape(str(trial))}</code>"
            ". The Train tab goes back to the program's."
        )
    elif defaults.kind == "mini":
        text = (
            f"<b>This is the mini checkpoint</b> ({size}): a small model trained on computer-made people, so "
            "that the program can be tried without a large download. It keeps colours and poses; faces and "
            "fine detail are beyond it. With the released MagicAnimate weights: "
            "<code>python app.py --model full</code>."
        )
    else:
        text = f"Checkpoint: <b>{html.escape(defaults.kind)}</b>, made for {size}."
    return f'<p class="ma-note">{text}</p>'


def progress_bar(progress: Progress) -> str:
    """Stage, bar and time left, and what is to be said of the run."""
    total = max(progress.total, 1)
    percent = min(100, round(100 * progress.step / total))
    stage = STAGES.get(progress.stage, progress.stage).capitalize()
    if total == 1:
        count = ""
    elif progress.stage in STAGES_IN_BYTES:
        count = f"{human_bytes(progress.step)} of {human_bytes(total)}"
    elif progress.denoising_step:
        step, steps = progress.denoising_step
        count = f"step {step} of {steps} · window {progress.step} of {total}"
    else:
        count = f"{progress.step} of {total}"
    details = " · ".join(text for text in (count, time_left(progress.seconds_left)) if text)
    note = message(progress.note) if progress.note else ""
    return (
        '<div class="ma-progress"><div class="ma-progress-text">'
        f"<span>{stage}</span><span>{details}</span></div>"
        f'<div class="ma-bar" role="progressbar" aria-label="{stage}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}"><div style="width:{percent}%"></div></div></div>{note}'
    )


def message(text: str, *, kind: str = "info") -> str:
    """One sentence in a box; ``kind`` is "info", "done" or "error"."""
    role = "alert" if kind == "error" else "status"
    return f'<div class="ma-message ma-{kind}" role="{role}">{html.escape(text)}</div>'


def job_status(placed: PlacedJob | None) -> str:
    """How far a job is, or what has come of it."""
    if placed is None:
        return message("The video will appear here.")
    job = placed.job
    if job.state == "running":
        return progress_bar(job.progress) if job.progress else message("Beginning…")
    if job.state == "waiting":
        others = "the job" if placed.before == 1 else f"{placed.before} jobs"
        return message(f"Waiting for {others} before this one." if placed.before else "Beginning…")
    if job.state == "done":
        return message(job.summary or "Done.", kind="done")
    if job.state == "failed":
        return message(job.error, kind="error")
    if job.state == "interrupted":
        return message("The program ended before this job did; go on with it below.")
    if not job.results:
        return message("Cancelled; nothing was written.")
    name = Path(job.results[0]).name
    return message(f"Cancelled. The last preview is kept as {name}; the settings are still in the form.")


def unloaded_note(minutes: float) -> str:
    """Why the next animation begins a little later."""
    return (
        f'<p class="ma-note">After {minutes:g} minutes without work the networks were taken out of memory; '
        "the next job loads them again.</p>"
    )


def motion_made(new: MadeMotion, then: str = "") -> str:
    """What was made of the visitor's clip, by what, and what to know of it; ``then`` is a sentence more."""
    made = new.extraction
    how = "in the right colours" if new.engine is None else f"made by {ENGINE_NAMES[new.engine]}"
    text = f"A DensePose clip of {made.num_frames} frames, {how}."
    for frames, what in ((made.empty, "nobody"), (made.filled, "the people of a frame beside them")):
        if frames:
            text += f" {len(frames)} of them show {what}."
    return message(f"{text} {then} Saved as {made.video}".replace("  ", " "), kind="done")


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
