"""Pieces of HTML on the Train tab."""

from __future__ import annotations

import html
from collections.abc import Sequence

from magicanimate.config import Progress
from magicanimate.webui import views
from magicanimate.webui.texts import tr
from magicanimate.webui.training.detached import DetachedProcess
from magicanimate.webui.training.run import RunStatus

_INTRO = (
    "Train a model on videos of your own. A training goes on when this page is closed or the program ends, "
    "and is found again. On several GPUs, run the command line below with {launch} in place of {python}."
)


def intro() -> str:
    """What the tab is for."""
    launch, python = "<code>accelerate launch -m</code>", "<code>python -m</code>"
    return views.caption(tr(_INTRO, launch=launch, python=python))


def training(status: RunStatus, stage: str) -> str:
    """How far a run is, or how it ended."""
    if status.state == "none":
        text = tr("{stage} has not been trained in this folder yet.", stage=stage)
        return views.empty(tr("Your training will appear here"), text)
    if status.state == "failed":
        return views.message(status.words or tr(_SILENT), kind="error")
    if status.state == "finished":
        text = "Finished {stage} after {step} steps. For more, set a higher number of steps and resume."
        return views.message(tr(text, stage=stage, step=status.step), kind="done")
    if status.state == "stopped":
        told = {"step": status.step, "steps": status.steps or "?", "kept": status.checkpoint}
        if status.checkpoint:
            return views.message(
                tr("Stopped at step {step} of {steps}; Resume goes on at step {kept}.", **told)
            )
        return views.message(
            tr("Stopped at step {step} of {steps}; with no checkpoint yet it begins anew.", **told)
        )
    if status.state == "stopping":
        note = tr("Stopping: it finishes its step and writes a checkpoint. Stop at once leaves that out.")
        return _bar(status, stage) + views.message(note)
    return _bar(status, stage)


_SILENT = "It ended without saying why."


def _bar(status: RunStatus, stage: str) -> str:
    if not status.steps:
        return views.message(f"{tr('Getting ready…')} {status.words}".strip())
    progress = Progress("train", status.step, status.steps, status.seconds_left)
    return views.progress_bar(progress, name=tr("Training {stage}", stage=stage))


def samples_caption(step: int, stage: str) -> str:
    """What the rows of the samples are."""
    rows = (
        tr("above the pictures, below what the autoencoder makes of them")
        if stage == "vae"
        else tr("photo, motion, result and how it should be, of people it does not learn from")
    )
    return views.caption(tr("Step {step}: {rows}", step=step, rows=rows))


def rendering(process: DetachedProcess) -> str:
    """How far the rendering of people is, or how it ended; empty if there was none."""
    record = process.record
    if record is None:
        return ""
    if process.running:
        return views.message(process.output(lines=1) or tr("Getting ready…"))
    if record.exit_status and not record.asked_to_stop:
        return views.message(process.last_words() or tr(_SILENT), kind="error")
    if record.exit_status == 0:
        return views.message(tr("Rendered: {what}", what=process.last_words()), kind="done")
    return views.message(tr("Stopped; Render goes on with those that are missing."))


_UNUSABLE = "{count} file cannot be used|{count} files cannot be used"


def lines(text: Sequence[str], *, kind: str = "info") -> str:
    """Several lines in a box; those about files that are left out stand in a list of their own that opens."""
    left_out = [line for line in text if line.startswith("left out: ")]
    body = "".join(f"<div>{html.escape(line)}</div>" for line in text if line not in left_out)
    if left_out:
        items = "".join(f"<div>{html.escape(line)}</div>" for line in left_out)
        body += f"<details><summary>{tr(_UNUSABLE, count=len(left_out))}</summary>{items}</details>"
    return f'<div class="ma-message ma-{kind}" role="status">{body}</div>'
