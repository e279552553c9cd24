"""The side of the page that tells of jobs: what runs, what came out, and the list of all of them.

It looks at the queue by a timer, so that a page may be closed and opened again at any time.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.gallery.result_panel import ResultPanel
from magicanimate.webui.gallery.results import encode_webp, result_of, thumbnail
from magicanimate.webui.jobs.queue import Job, JobQueue, JobState
from magicanimate.webui.service import AnimationService
from magicanimate.webui.texts import said, tr
from magicanimate.webui.views import PRIVATE, Updates, refusal

_WHILE_BUSY, _WHILE_IDLE = 0.4, 2.0  # seconds between two polls


@dataclass(frozen=True)
class PlacedJob:
    """A job, and how many others, of anybody, run before it."""

    job: Job
    before: int


@dataclass(frozen=True)
class ViewState:
    """What one open page shows; kept between its polls.

    Attributes:
        new: the page was just opened.
        current: the job whose progress or result is shown.
        preview: the preview on show.
        listed: the jobs in the list, without their progress.
    """

    new: bool = True
    current: PlacedJob | None = None
    preview: Any = None
    listed: tuple[PlacedJob, ...] = ()


@dataclass(frozen=True)
class JobUpdate:
    """What has changed since a page's last poll.

    Attributes:
        seen: what the page shows from now on.
        changed: whether ``seen.current`` is another job or in another state.
        preview: a new preview, uint8 ``F h w 3``, or ``None``.
        ended: a job that has ended and whose result this page has not shown yet.
        relisted: whether ``seen.listed`` differs from before.
    """

    seen: ViewState
    changed: bool
    preview: Any
    ended: Job | None
    relisted: bool


def poll_queue(queue: JobQueue, seen: ViewState, owner: str) -> JobUpdate:
    """Compare the owner's jobs with what a page shows.

    A page stays with its job until that ends, then shows the next one that runs. A page that was just opened
    shows the running job, else the one that ended last, so that nothing made meanwhile is missed.
    """
    jobs = queue.jobs(owner)
    before = seen.current.job if seen.current else None
    known = next((job for job in jobs if before is not None and job.id == before.id), None)
    running = next((job for job in jobs if job.state == "running"), None)
    if known is not None and not known.is_over:
        job = known
    elif seen.new and running is None:
        over = (job for job in jobs if job.is_over and job.ended is not None)
        job = max(over, key=lambda job: job.ended, default=None)
    else:
        job = running or known
    ended = None
    if known is not None and known.is_over and not before.is_over:
        ended = known
    elif seen.new and job is not None and job.is_over:
        ended = job
    preview = job.progress.preview if job is not None and job.progress is not None else None
    now = ViewState(
        new=False,
        current=None if job is None else PlacedJob(job, queue.position(job.id)),
        preview=preview,
        # Progress would make the list another one at every poll, and be drawn anew under the pointer.
        listed=tuple(PlacedJob(replace(job, progress=None), queue.position(job.id)) for job in jobs),
    )
    return JobUpdate(
        seen=now,
        changed=now.current != seen.current,
        preview=None if preview is seen.preview else preview,
        ended=ended,
        relisted=now.listed != seen.listed,
    )


def switch_to(job: Job, seen: ViewState) -> ViewState:
    """The state of a page that is to show another job at its next poll, also one that has ended before."""
    # As if it had just begun to wait, so that the poll finds its state changed and shows it in full.
    return replace(seen, new=False, current=PlacedJob(replace(job, state="waiting"), -1), preview=None)


class RunningPanel:
    """The widgets that show jobs; built where the object is made.

    Args:
        service: has the queue.
        cancel: the button that stops the job on show.
        example: HTML to show as long as there are no jobs.
    """

    def __init__(self, service: AnimationService, cancel: gr.Button, example: str):
        self.service, self.cancel = service, cancel
        self.seen = gr.State(ViewState())
        # Tells visitors apart where several people use the program: only their own browser knows it. Who is
        # alone has nobody to be told apart from, and the page fetches two scripts less.
        self.visitor = gr.State("")
        if service.shared:
            self.visitor = gr.BrowserState("", storage_key="magicanimate-visitor", secret="magicanimate")
        self.timer = gr.Timer(_WHILE_BUSY)
        self.example = gr.HTML(example, elem_id="example", padding=False)
        self.status = gr.HTML("", visible=False, elem_id="status", padding=False)
        self.preview = gr.HTML("", visible=False, elem_id="preview", padding=False)
        with gr.Column(visible=False, elem_id="result-column") as self.result_column:
            self.result = ResultPanel()
        # A click brings ``action`` and ``job``, an id or empty.
        self.job_list = gr.HTML("", visible=False, elem_id="jobs", padding=False, js_on_load=_ON_LOAD)
        self.note = gr.HTML("", visible=False, elem_id="unloaded-note", padding=False)

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What `poll` updates."""
        state = [self.seen, self.visitor, self.timer]
        shown = [self.status, self.preview, self.result_column, self.example, self.job_list, self.note]
        return [*state, *shown, self.cancel, *self.result.widgets]

    def connect(self) -> None:
        """Attach the handlers."""
        page = [self.seen, self.visitor]
        # Past Gradio's queue, in which a poll would wait behind handlers that take long.
        at_once = {**PRIVATE, "queue": False}
        self.timer.tick(self.poll, page, self.widgets, **at_once)
        self.job_list.click(self._act, page, self.widgets, **at_once)
        self.result.connect()

    def owner(self, visitor: str, request: gr.Request) -> str:
        """Whose jobs a page shows: all of them on a machine of one's own (an empty name), else those of the
        account that is logged in, or of this browser."""
        if not self.service.shared:
            return ""
        return request.username or visitor or request.session_hash

    def poll(self, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Bring the page up to date."""
        updates: Updates = {}
        if self.service.shared and not visitor:
            visitor = secrets.token_hex(16)
            updates[self.visitor] = visitor
        update = poll_queue(self.service.queue, seen, self.owner(visitor, request))
        updates[self.seen] = update.seen
        jobs = update.seen.listed
        if update.relisted:
            updates[self.job_list] = gr.update(value=_job_list(jobs), visible=bool(jobs))
        # An empty list counts as unchanged when the page opens, but the timer has to slow down all the same.
        if update.relisted or not jobs:
            busy = any(placed.job.state in ("running", "waiting") for placed in jobs)
            updates[self.timer] = gr.update(value=_WHILE_BUSY if busy else _WHILE_IDLE)
        if update.changed:
            updates |= self._show_status(update.seen.current)
            if update.seen.preview is None:
                updates[self.preview] = gr.update(value="", visible=False)
        if update.preview is not None:
            fps = update.seen.current.job.progress.preview_fps
            updates[self.preview] = gr.update(value=moving_preview(update.preview, fps), visible=True)
        if update.ended is not None:
            updates |= self._show_end(update.ended, alone=update.seen.preview is None)
        note = _unloaded_note(self.service.unload_after) if self.service.unloaded else ""
        return updates | {self.note: gr.update(value=note, visible=bool(note))}

    def show_new(self, job: Job, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Show a job that was just made, unless another one is running."""
        current = seen.current.job if seen.current else None
        if current is None or current.is_over:
            seen = switch_to(job, seen)
        return self.poll(seen, visitor, request)

    def _show_status(self, placed: PlacedJob | None) -> Updates:
        """The line above the preview, and whether there is something to cancel."""
        active = placed is not None and placed.job.state in ("running", "waiting")
        status = "" if placed is None else _status_of(placed)
        return {
            self.status: gr.update(value=status, visible=bool(status)),
            self.example: gr.update(visible=placed is None),
            self.cancel: gr.update(value=tr("Cancel"), interactive=True, visible=active),
        }

    def _show_end(self, job: Job, *, alone: bool) -> Updates:
        """Show the result of a job; ``alone`` if no preview of another job is on show."""
        if job.state == "done":
            try:
                shown = self.result.show(result_of(Path(job.results[0])))
                return {self.result_column: gr.update(visible=True), **shown}
            except InputError as error:
                return {self.status: refusal(error)}
        if alone and job.results and Path(job.results[0]).exists():  # the last preview of a cancelled job
            kept = views.picture(
                Path(job.results[0]).read_bytes(), label=tr("the last preview"), css="ma-preview"
            )
            return {self.preview: gr.update(value=kept, visible=True)}
        return {}

    def stop(self, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Cancel the job on show."""
        if seen.current is not None and seen.current.job.owner == self.owner(visitor, request):
            self.service.queue.cancel(seen.current.job.id)
        return self.poll(seen, visitor, request) | {
            self.cancel: gr.update(value=tr("Stopping…"), interactive=False)
        }

    def _act(self, seen: ViewState, visitor: str, request: gr.Request, event: gr.EventData) -> Updates:
        """A button of the list was pressed."""
        owner = self.owner(visitor, request)
        queue = self.service.queue
        job = queue.get(event.job or "")
        if event.job and (job is None or job.owner != owner):
            return self.poll(seen, visitor, request)
        try:
            match event.action:
                case "up" | "down":
                    queue.move(job.id, by=-1 if event.action == "up" else 1)
                case "move":
                    queue.move(job.id, by=int(event.by))
                case "cancel":
                    queue.cancel(job.id)
                case "remove":
                    queue.remove(job.id)
                case "again":
                    return self.show_new(queue.again(job.id), seen, visitor, request)
                case "show":
                    return self.poll(switch_to(job, seen), visitor, request)
                case "go-on":
                    queue.go_on(owner)
                case "drop" | "clear":
                    for other in queue.jobs(owner):
                        if other.state == "interrupted" if event.action == "drop" else other.is_over:
                            queue.remove(other.id)
        except InputError as error:
            return self.poll(seen, visitor, request) | {self.status: refusal(error)}
        return self.poll(seen, visitor, request)


def _status_of(placed: PlacedJob) -> str:
    """How far a job is, or how it ended."""
    job = placed.job
    if job.state == "running":
        if job.progress is None:
            return views.message(tr("Starting…"))
        return views.progress_bar(job.progress, notifies=True)
    if job.state == "waiting":
        if not placed.before:
            return views.message(tr("Starting…"))
        text = "Waiting for {count} job before this one.|Waiting for {count} jobs before this one."
        return views.message(tr(text, count=placed.before))
    if job.state == "done":
        return views.message(job.summary or tr("Done."), kind="done")
    if job.state == "failed":
        return views.message(job.error, kind="error")
    if job.state == "interrupted":
        return views.message(tr("This job was interrupted. Resume it below."))
    if not job.results:
        return views.message(tr("Cancelled."))
    return views.message(tr("Cancelled. The last preview is kept as {name}.", name=Path(job.results[0]).name))


def _unloaded_note(minutes: float) -> str:
    """Why the next animation begins a little later."""
    text = tr(
        "The model was unloaded after {count} minute; the next video starts a little later."
        "|The model was unloaded after {count} minutes; the next video starts a little later.",
        count=int(minutes) if minutes == int(minutes) else minutes,
    )
    return f'<p class="ma-caption">{text}</p>'


def moving_preview(frames: Any, fps: float | None = None) -> str:
    """Frames of a running job as a moving picture.

    Args:
        frames: uint8 ``F h w 3``, half-finished ones from all over the clip; with ``fps`` finished ones, each
            after the other.
        fps: frames a second.
    """
    shown = views.picture(encode_webp(frames, fps=fps), label=tr("preview"), css="ma-preview")
    if fps is None:
        return shown
    text = tr("This part is finished; the rest is being made.")
    return f'<figure class="ma-example">{shown}<figcaption>{text}</figcaption></figure>'


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
// A waiting job is dragged to where another one is. By the pointer and not by the browser's own dragging,
// which never begins if the list is drawn anew between the press and the first move.
let dragged = null;
const row = (event) => event.target.closest?.(".ma-job-waiting");
element.addEventListener("dragstart", (event) => event.preventDefault());  // of pictures
element.addEventListener("pointerdown", (event) => {
  if (event.button === 0 && !event.target.closest("button")) dragged = row(event)?.dataset.job ?? null;
});
element.addEventListener("pointerup", (event) => {
  const rows = [...element.querySelectorAll(".ma-job-waiting")].map((each) => each.dataset.job);
  const by = rows.indexOf(row(event)?.dataset.job) - rows.indexOf(dragged);
  if (rows.includes(dragged) && row(event) && by) trigger("click", { action: "move", job: dragged, by });
});
for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { dragged = null; });
"""

_STATES: dict[JobState, str] = {
    "running": "running",
    "waiting": "waiting",
    "interrupted": "interrupted",
    "done": "done",
    "failed": "failed",
    "cancelled": "cancelled",
}

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


def _job_list(jobs: Sequence[PlacedJob]) -> str:
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
        finished = (
            f"<details><summary>{tr('{count} finished', count=len(ended))}</summary><ol>{old}</ol></details>"
        )
    return (
        f'<section class="ma-jobs" aria-label="{tr("Jobs")}"><header><h3>{tr("Jobs")}</h3>{clear}</header>'
        f"{_offer(unfinished)}<ol>{rows}</ol>{finished}</section>"
    )


def _offer(unfinished: int) -> str:
    """What to do with the jobs that the end of the program interrupted."""
    if not unfinished:
        return ""
    sentence = tr("{count} job was interrupted.|{count} jobs were interrupted.", count=unfinished)
    resume = tr("Resume {count} job|Resume {count} jobs", count=unfinished)
    go_on = _button("go-on", resume, "Run from the beginning", main=True)
    drop = _button("drop", "Remove" if unfinished == 1 else "Remove all", "Take off the list")
    return f'<div class="ma-offer"><span>{sentence}</span>{go_on}{drop}</div>'


def _row(placed: PlacedJob, useless: Set[tuple[str, str]]) -> str:
    """A job; buttons in ``useless`` would do nothing."""
    job = placed.job
    state = tr(_STATES[job.state])
    if job.state == "waiting":
        state = tr("waiting behind {count}", count=placed.before) if placed.before else tr("next")
    detail = f'<span class="ma-job-error">{html.escape(said(job.error))}</span>' if job.error else ""
    buttons = "".join(
        _button(*button, job=job, disabled=(job.id, button[0]) in useless)
        for button in _BUTTONS[job.state]
        if button is not _SHOW or job.results
    )
    return (
        f'<li class="ma-job ma-job-{job.state}" data-job="{job.id}">{_picture(job)}<div class="ma-job-text">'
        f"<b>{html.escape(job.title)}</b><span>{state}{_steps(job)}</span>{detail}</div>"
        f'<div class="ma-job-buttons">{buttons}</div></li>'
    )


def _steps(job: Job) -> str:
    steps = job.request.get("num_inference_steps")
    return " · " + tr("{count} step|{count} steps", count=steps) if isinstance(steps, int) else ""


def _picture(job: Job) -> str:
    photo = job.request.get("photo")
    small = thumbnail(Path(photo)) if photo else None
    if small is None:
        return '<span class="ma-job-picture"></span>'
    return views.picture(small, label="", css="ma-job-picture")


def _button(
    action: str, text: str, hint: str, *, job: Job | None = None, main: bool = False, disabled: bool = False
) -> str:
    hint = tr(hint)
    return views.button(
        tr(text),
        css="ma-small ma-main" if main else "ma-small",
        hint=hint,
        label=f"{hint}: {job.title}" if job else hint,
        more=' aria-disabled="true"' if disabled else "",
        action=action,
        job=job.id if job else "",
    )
