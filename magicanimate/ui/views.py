"""Pieces of HTML on the page: title, checkpoint, progress, messages, preview."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densepose_tools.engine_choice import ENGINE_NAMES
from magicanimate.animator import ModelDefaults
from magicanimate.checkpoints.disk import human_bytes
from magicanimate.config import AnimationResult, Progress
from magicanimate.wording import STAGES, STAGES_IN_BYTES, time_left

if TYPE_CHECKING:
    from densepose_tools.one_click import MadeMotion

STYLE = Path(__file__).with_name("style.css")

TITLE = """
<header class="ma-title">
  <h1>MagicAnimate</h1>
  <p>A photo and the movements of somebody else make a video. The movements come as a DensePose clip, a video
  in which every part of the body has its own colour; it can be made here of any other video.</p>
</header>
"""


def checkpoint_note(defaults: ModelDefaults) -> str:
    """Which checkpoint runs, and what may be expected of it."""
    size = f"{defaults.width} x {defaults.height} pixels"
    if defaults.kind == "mini":
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


def finished(result: AnimationResult) -> str:
    """What was made, how long it took and where it is."""
    return message(
        f"{result.num_frames} frames of {result.width} x {result.height} at {result.fps:g} fps in "
        f"{sum(result.seconds.values()):.0f} s. Saved as {result.output}",
        kind="done",
    )


def motion_made(new: MadeMotion) -> str:
    """What was made of the visitor's clip, by what, and what to know of it."""
    made = new.extraction
    how = "in the right colours" if new.engine is None else f"made by {ENGINE_NAMES[new.engine]}"
    text = f"A DensePose clip of {made.num_frames} frames, {how}."
    for frames, what in ((made.empty, "nobody"), (made.filled, "the people of a frame beside them")):
        if frames:
            text += f" {len(frames)} of them show {what}."
    return message(f"{text} Animate uses it now. Saved as {made.video}", kind="done")


def preview(frames: Any, *, fps: float = 8.0, side: int = 384) -> str:
    """Half-finished frames, uint8 ``F h w 3``, as a moving picture."""
    from PIL import Image

    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pictures.append(picture.resize(size, Image.Resampling.BICUBIC))
    file = io.BytesIO()
    pictures[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / fps),
        loop=0,
        quality=60,
    )
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img class="ma-preview" alt="preview" src="data:image/webp;base64,{data}">'
