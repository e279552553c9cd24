"""The list of jobs: where each stands, and buttons for what can be done with it."""

from __future__ import annotations

import html
from collections.abc import Sequence, Set
from pathlib import Path

import gradio as gr

from magicanimate.webui import views
from magicanimate.webui.gallery.photo_thumbnail import thumbnail
from magicanimate.webui.jobs.job import Job, JobState
from magicanimate.webui.jobs.watch import PlacedJob

# Tells Python which button of which job was pressed. The list is drawn anew when it changes; whoever walks
# through it by keyboard then finds the focus on the same button of the same job, wherever it is now. A button
# that would do nothing stays, so that pressing it once more does not fall on another one.
_ON_LOAD = """
let pressed = null;
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  pressed = { action: button.dataset.action, job: button.dataset.job };
  trigger("click", pressed);
});
watch("value", () => {
  const focused = document.activeElement;
  if (!pressed || !(focused === document.body || element.contains(focused))) return;
  const buttons = [...element.querySelectorAll("button[data-action]")];
  const same = buttons.filter((button) => button.dataset.job === pressed.job);
  (same.find((button) => button.dataset.action === pressed.action) || same[0])?.focus();
});
"""

_STATES: dict[JobState, str] = {
    "running": "running",
    "waiting": "waiting",
    "interrupted": "interrupted when the program ended",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}

_DISABLED = ' aria-disabled="true"'
_UP, _DOWN = ("up", "↑", "Run earlier"), ("down", "↓", "Run later")
_EDIT = ("edit", "Edit", "Put its settings back into the form and change it")
_USE = ("use", "Use settings", "Put its photo, clip and settings into the form")
_SHOW = ("show", "Show", "Show what was made")
_AGAIN = ("again", "Run again", "Do the same once more")
_CANCEL = ("cancel", "Cancel", "Stop it")
_REMOVE = ("remove", "Remove", "Take it out of the queue")
_DISMISS = ("remove", "Dismiss", "Take it off this list; what was made stays")
_BUTTONS: dict[JobState, tuple[tuple[str, str, str], ...]] = {
    "running": (_CANCEL,),
    "waiting": (_UP, _DOWN, _EDIT, _REMOVE),
    "interrupted": (_EDIT, _REMOVE),
    "done": (_SHOW, _USE, _AGAIN, _DISMISS),
    "failed": (_USE, _AGAIN, _DISMISS),
    "cancelled": (_SHOW, _USE, _AGAIN, _DISMISS),
}


class QueuePanel:
    """Builds itself where it is made; it is not seen as long as there are no jobs.

    Attributes:
        list: its widget; a click brings ``action`` and ``job`` (an id, or empty).
    """

    def __init__(self) -> None:
        self.list = gr.HTML("", visible=False, elem_id="jobs", padding=False, js_on_load=_ON_LOAD)

    def show(self, jobs: Sequence[PlacedJob]) -> dict:
        """The list for these jobs."""
        return gr.update(value=job_list(jobs), visible=bool(jobs))


def job_list(jobs: Sequence[PlacedJob]) -> str:
    """The jobs as HTML: those that ended first, as they ran."""
    unfinished = sum(placed.job.state == "interrupted" for placed in jobs)
    over = sum(placed.job.is_over for placed in jobs)
    clear = _button("clear", "Dismiss all that ended", "What was made stays") if over > 1 else ""
    waiting = [placed.job for placed in jobs if placed.job.state == "waiting"]
    useless = {(job.id, "up") for job in waiting[:1]} | {(job.id, "down") for job in waiting[-1:]}
    rows = "".join(_row(placed, useless) for placed in jobs)
    return (
        f'<section class="ma-jobs" aria-label="Jobs"><header><h3>Jobs</h3>{clear}</header>'
        f"{_offer(unfinished)}<ol>{rows}</ol></section>"
    )


def _offer(unfinished: int) -> str:
    """What to do with the jobs that the end of the program interrupted."""
    if not unfinished:
        return ""
    jobs, them = ("1 unfinished job", "it") if unfinished == 1 else (f"{unfinished} unfinished jobs", "them")
    go_on = _button("go-on", f"Go on with {jobs}", f"Run {them} from the beginning", main=True)
    drop = _button("drop", f"Dismiss {them}", f"Take {them} off the list")
    return f'<div class="ma-offer"><span>The program ended before {them}.</span>{go_on}{drop}</div>'


def _row(placed: PlacedJob, useless: Set[tuple[str, str]]) -> str:
    """A job; buttons in ``useless`` would do nothing."""
    job = placed.job
    state = _STATES[job.state]
    if job.state == "waiting":
        state = f"waiting behind {placed.before}" if placed.before else "next"
    detail = f'<span class="ma-job-error">{html.escape(job.error)}</span>' if job.error else ""
    buttons = "".join(
        _button(*button, job=job, disabled=(job.id, button[0]) in useless)
        for button in _BUTTONS[job.state]
        if button is not _SHOW or job.results
    )
    return (
        f'<li class="ma-job ma-job-{job.state}" data-job="{job.id}">{_picture(job)}'
        f'<div class="ma-job-text"><b>{html.escape(job.title)}</b><span>{state}</span>{detail}</div>'
        f'<div class="ma-job-buttons">{buttons}</div></li>'
    )


def _picture(job: Job) -> str:
    photo = job.request.get("photo")
    small = thumbnail(Path(photo)) if photo else None
    if small is None:
        return '<span class="ma-job-picture"></span>'
    return views.picture(small, label="", css="ma-job-picture")


def _button(
    action: str, text: str, hint: str, *, job: Job | None = None, main: bool = False, disabled: bool = False
) -> str:
    label = f"{hint}: {job.title}" if job else hint
    return (
        f'<button type="button" class="ma-small{" ma-main" if main else ""}" data-action="{action}" '
        f'data-job="{job.id if job else ""}" title="{html.escape(hint)}" aria-label="{html.escape(label)}"'
        f"{_DISABLED if disabled else ''}>"
        f"{text}</button>"
    )
