"""The list of jobs: where each stands, and buttons for what can be done with it."""

from __future__ import annotations

import html
from collections.abc import Sequence, Set
from pathlib import Path

import gradio as gr

from magicanimate.webui import views
from magicanimate.webui.gallery.photo_thumbnail import thumbnail
from magicanimate.webui.jobs.job import Job, JobState
from magicanimate.webui.jobs.polling import PlacedJob

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
// What is unfolded stays so.
let open = false;
element.addEventListener("toggle", (event) => { open = event.target.open; }, true);
watch("value", () => { const old = element.querySelector("details"); if (old) old.open = open; });
// A waiting job is dragged to where another one is, or moved with the arrow keys while its row has the focus.
let dragged = null;
const row = (event) => event.target.closest(".ma-job-waiting");
element.addEventListener("dragstart", (event) => { dragged = row(event)?.dataset.job ?? null; });
element.addEventListener("dragover", (event) => { if (dragged && row(event)) event.preventDefault(); });
element.addEventListener("drop", (event) => {
  const rows = [...element.querySelectorAll(".ma-job-waiting")].map((each) => each.dataset.job);
  const by = rows.indexOf(row(event)?.dataset.job) - rows.indexOf(dragged);
  if (dragged && row(event) && by) trigger("click", { action: "move", job: dragged, by });
  dragged = null;
});
"""

_STATES: dict[JobState, str] = {
    "running": "running",
    "waiting": "waiting",
    "interrupted": "interrupted",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}

_DISABLED = ' aria-disabled="true"'
_DRAGGED = ' draggable="true"'
_UP, _DOWN = ("up", "↑", "Run earlier"), ("down", "↓", "Run later")
_EDIT = ("edit", "Edit", "Change its settings")
_USE = ("use", "Use settings", "Use its photo, video and settings again")
_SHOW = ("show", "Show", "Show the video")
_AGAIN = ("again", "Run again", "Make it once more")
_CANCEL = ("cancel", "Cancel", "Stop this job")
_REMOVE = ("remove", "Remove", "Take this job out of the queue")
_DISMISS = ("remove", "Clear", "Take it off this list; the video stays")
_BUTTONS: dict[JobState, tuple[tuple[str, str, str], ...]] = {
    "running": (_CANCEL,),
    "waiting": (_UP, _DOWN, _EDIT, _REMOVE),
    "interrupted": (_EDIT, _REMOVE),
    "done": (_SHOW, _USE, _AGAIN, _DISMISS),
    "failed": (_USE, _AGAIN, _DISMISS),
    "cancelled": (_SHOW, _USE, _AGAIN, _DISMISS),
}


_ACTIVE: tuple[JobState, ...] = ("running", "waiting", "interrupted")


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
    """The jobs as HTML: what runs, waits, was interrupted; what has ended is folded, newest first."""
    unfinished = sum(placed.job.state == "interrupted" for placed in jobs)
    over = sum(placed.job.is_over for placed in jobs)
    clear = (
        _button("clear", "Clear finished", "Take finished jobs off the list; videos stay") if over > 1 else ""
    )
    waiting = [placed.job for placed in jobs if placed.job.state == "waiting"]
    useless = {(job.id, "up") for job in waiting[:1]} | {(job.id, "down") for job in waiting[-1:]}
    active = [placed for state in _ACTIVE for placed in jobs if placed.job.state == state]
    ended = [placed for placed in jobs if placed.job.is_over]
    ended.sort(key=lambda placed: placed.job.ended or 0, reverse=True)
    rows = "".join(_row(placed, useless) for placed in active)
    finished = ""
    if ended:
        old = "".join(_row(placed, useless) for placed in ended)
        finished = f"<details><summary>{len(ended)} finished</summary><ol>{old}</ol></details>"
    return (
        f'<section class="ma-jobs" aria-label="Jobs"><header><h3>Jobs</h3>{clear}</header>'
        f"{_offer(unfinished)}<ol>{rows}</ol>{finished}</section>"
    )


def _offer(unfinished: int) -> str:
    """What to do with the jobs that the end of the program interrupted."""
    if not unfinished:
        return ""
    jobs, were = ("1 job", "was") if unfinished == 1 else (f"{unfinished} jobs", "were")
    go_on = _button("go-on", f"Resume {jobs}", "Run from the beginning", main=True)
    drop = _button("drop", "Remove" if unfinished == 1 else "Remove all", "Take off the list")
    return f'<div class="ma-offer"><span>{jobs} {were} interrupted.</span>{go_on}{drop}</div>'


def _row(placed: PlacedJob, useless: Set[tuple[str, str]]) -> str:
    """A job; buttons in ``useless`` would do nothing."""
    job = placed.job
    state, waiting = _STATES[job.state], job.state == "waiting"
    if waiting:
        state = f"waiting behind {placed.before}" if placed.before else "next"
    detail = f'<span class="ma-job-error">{html.escape(job.error)}</span>' if job.error else ""
    buttons = "".join(
        _button(*button, job=job, disabled=(job.id, button[0]) in useless)
        for button in _BUTTONS[job.state]
        if button is not _SHOW or job.results
    )
    attributes = f'data-job="{job.id}"{_DRAGGED if waiting else ""}'
    return (
        f'<li class="ma-job ma-job-{job.state}" {attributes}>{_picture(job)}<div class="ma-job-text">'
        f"<b>{html.escape(job.title)}</b><span>{state}{_steps(job)}</span>{detail}</div>"
        f'<div class="ma-job-buttons">{buttons}</div></li>'
    )


def _steps(job: Job) -> str:
    steps = job.request.get("num_inference_steps")
    return f" · {steps} steps" if isinstance(steps, int) else ""


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
