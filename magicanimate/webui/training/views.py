"""Pieces of HTML on the Train tab."""

from __future__ import annotations

import html
from collections.abc import Sequence

from magicanimate.config import Progress
from magicanimate.webui import views
from magicanimate.webui.training.detached import DetachedProcess
from magicanimate.webui.training.run import RunStatus

INTRO = (
    '<p class="ma-caption">Train a model on videos of your own. A training goes on when this page is closed '
    "or the program ends, and is found again. On several GPUs, run the command line below with "
    "<code>accelerate launch -m</code> in place of <code>python -m</code>.</p>"
)


def training(status: RunStatus, stage: str) -> str:
    """How far a run is, or how it ended."""
    if status.state == "none":
        return views.message(f"{stage} has not been trained in this folder yet.")
    if status.state == "failed":
        return views.message(status.words or "It ended without saying why.", kind="error")
    if status.state == "finished":
        return views.message(
            f"Finished {stage} after {status.step} steps. For more, set Steps higher and resume.", kind="done"
        )
    if status.state == "stopped":
        kept = (
            f"at step {status.checkpoint}"
            if status.checkpoint
            else "at the beginning, there is no checkpoint"
        )
        return views.message(
            f"Stopped at step {status.step} of {status.steps or '?'}; Resume goes on {kept}."
        )
    if status.state == "stopping":
        note = "Stopping: it finishes its step and writes a checkpoint. Stop at once leaves that out."
        return _bar(status, stage) + views.message(note)
    return _bar(status, stage)


def _bar(status: RunStatus, stage: str) -> str:
    if not status.steps:
        return views.message(f"Getting ready: {status.words or 'loading'}")
    return views.progress_bar(Progress(f"training {stage}", status.step, status.steps, status.seconds_left))


def samples_caption(step: int, stage: str) -> str:
    """What the rows of the samples are."""
    rows = (
        "above the pictures, below what the autoencoder makes of them"
        if stage == "vae"
        else "photo, motion, result and how it should be, of people it does not learn from"
    )
    return f'<p class="ma-caption">Step {step}: {rows}</p>'


def rendering(process: DetachedProcess) -> str:
    """How far the rendering of people is, or how it ended; empty if there was none."""
    record = process.record
    if record is None:
        return ""
    if process.running:
        return views.message(process.output(lines=1) or "Getting ready to render.")
    if record.exit_status and not record.asked_to_stop:
        return views.message(process.last_words() or "It ended without saying why.", kind="error")
    done = record.exit_status == 0
    text = (
        f"Rendered: {process.last_words()}"
        if done
        else "Stopped; Render goes on with those that are missing."
    )
    return views.message(text, kind="done" if done else "info")


def lines(text: Sequence[str], *, kind: str = "info") -> str:
    """Several lines in a box; those about files that are left out stand in a list of their own that opens."""
    left_out = [line for line in text if line.startswith("left out: ")]
    body = "".join(f"<div>{html.escape(line)}</div>" for line in text if line not in left_out)
    if left_out:
        items = "".join(f"<div>{html.escape(line)}</div>" for line in left_out)
        body += f"<details><summary>{len(left_out)} files cannot be used</summary>{items}</details>"
    return f'<div class="ma-message ma-{kind}" role="status">{body}</div>'
