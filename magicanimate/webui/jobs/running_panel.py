"""The side of the page that tells of jobs: what runs, what came out, and the list of all of them.

It looks at the queue by a timer, so that a page may be closed and opened again at any time.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import gradio as gr

from magicanimate.errors import InputError
from magicanimate.webui import views
from magicanimate.webui.animate.result_panel import ResultPanel
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.jobs.job import Job
from magicanimate.webui.jobs.polling import JobPoller, JobUpdate, PlacedJob, ViewState
from magicanimate.webui.jobs.queue_panel import QueuePanel
from magicanimate.webui.service import AnimationService

_WHILE_BUSY, _WHILE_IDLE = 0.4, 2.0  # seconds between looks


class RunningPanel:
    """Builds itself where it is made.

    Args:
        service: has the queue.
        cancel: the button that stops the job which the panel tells of.
        example: HTML that is shown as long as there are no jobs.
    """

    def __init__(self, service: AnimationService, cancel: gr.Button, example: str):
        self.service, self.cancel = service, cancel
        self.seen = gr.State(ViewState())
        # Who one is where several people use the program: known to one's own browser alone.
        self.visitor = gr.BrowserState("", storage_key="magicanimate-visitor", secret="magicanimate")
        self.timer = gr.Timer(_WHILE_BUSY)
        self.example = gr.HTML(example, elem_id="example", padding=False)
        self.status = gr.HTML("", visible=False, elem_id="status", padding=False)
        self.preview = gr.HTML("", visible=False, elem_id="preview", padding=False)
        with gr.Column(visible=False, elem_id="result-column") as self.result_column:
            self.result = ResultPanel()
        self.jobs = QueuePanel()
        self.note = gr.HTML("", visible=False, elem_id="unloaded-note", padding=False)

    @property
    def widgets(self) -> list[gr.components.Component]:
        """What `poll` updates."""
        own = [
            self.seen,
            self.visitor,
            self.timer,
            self.status,
            self.preview,
            self.result_column,
            self.example,
        ]
        return [*own, self.jobs.list, self.note, self.cancel, *self.result.widgets]

    def connect(self) -> None:
        """Attach the handlers; every widget of the page is there now."""
        told = [self.seen, self.visitor]
        private = {**PRIVATE, "queue": False}
        self.timer.tick(self.poll, told, self.widgets, **private)
        self.jobs.list.click(self._act, told, self.widgets, **private)
        self.result.connect()

    def owner(self, visitor: str, request: gr.Request) -> str:
        """Whose jobs a page shows: everybody's on a machine of one's own, else those of who is signed in, or
        of this browser."""
        if not self.service.shared:
            return ""
        return request.username or visitor or request.session_hash

    def poll(self, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Bring the page up to date."""
        updates: Updates = {}
        if self.service.shared and not visitor:
            visitor = secrets.token_hex(16)
            updates[self.visitor] = visitor
        news = JobPoller(self.service.queue).poll(seen, self.owner(visitor, request))
        return updates | self._tell(news)

    def turn_to(self, job: Job, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Tell of another job from now on, unless one is running."""
        current = seen.current.job if seen.current else None
        if current is None or current.is_over:
            seen = JobPoller.turn_to(seen, job)
        return self.poll(seen, visitor, request)

    def _tell(self, news: JobUpdate) -> Updates:
        updates: Updates = {self.seen: news.seen}
        if news.relisted:
            busy = any(placed.job.state in ("running", "waiting") for placed in news.seen.listed)
            updates[self.jobs.list] = self.jobs.show(news.seen.listed)
            updates[self.timer] = gr.update(value=_WHILE_BUSY if busy else _WHILE_IDLE)
        if news.changed:
            updates |= self._current(news.seen.current)
            if news.seen.preview is None:
                updates[self.preview] = gr.update(value="", visible=False)
        if news.preview is not None:
            updates[self.preview] = gr.update(value=views.preview(news.preview), visible=True)
        if news.ended is not None:
            updates |= self._ended(news.ended, alone=news.seen.preview is None)
        note = views.unloaded_note(self.service.unload_after) if self.service.unloaded else ""
        return updates | {self.note: gr.update(value=note, visible=bool(note))}

    def _current(self, placed: PlacedJob | None) -> Updates:
        """What is said of the job that the page tells of."""
        active = placed is not None and placed.job.state in ("running", "waiting")
        told = "" if placed is None else views.job_status(placed)
        return {
            self.status: gr.update(value=told, visible=bool(told)),
            self.example: gr.update(visible=placed is None),
            self.cancel: gr.update(value="Cancel", interactive=True, visible=active),
        }

    def _ended(self, job: Job, *, alone: bool) -> Updates:
        """Show what has come of a job; ``alone`` if there is no preview of another one."""
        if job.state == "done":
            try:
                return {self.result_column: gr.update(visible=True), **self.result.show(job.results[0])}
            except InputError as error:
                return {self.status: _error(error)}
        if alone and job.results and Path(job.results[0]).exists():  # what was kept of a cancelled one
            kept = views.moving_picture(Path(job.results[0]).read_bytes(), label="the last preview")
            return {self.preview: gr.update(value=kept, visible=True)}
        return {}

    def stop(self, seen: ViewState, visitor: str, request: gr.Request) -> Updates:
        """Cancel the job that the page tells of."""
        if seen.current is not None and seen.current.job.owner == self.owner(visitor, request):
            self.service.queue.cancel(seen.current.job.id)
        return self.poll(seen, visitor, request) | {
            self.cancel: gr.update(value="Stopping…", interactive=False)
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
                    return self.turn_to(queue.again(job.id), seen, visitor, request)
                case "show":
                    return self.poll(JobPoller.turn_to(seen, job), visitor, request)
                case "go-on":
                    queue.go_on(owner)
                case "drop" | "clear":
                    dropped = [other for other in queue.jobs(owner) if _goes(event.action, other)]
                    for other in dropped:
                        queue.remove(other.id)
        except InputError as error:
            return self.poll(seen, visitor, request) | {self.status: _error(error)}
        return self.poll(seen, visitor, request)


def _error(error: InputError) -> dict:
    return gr.update(value=views.message(str(error), kind="error"), visible=True)


def _goes(action: str, job: Job) -> bool:
    return job.state == "interrupted" if action == "drop" else job.is_over
