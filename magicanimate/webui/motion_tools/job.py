"""The making of a motion clip as a page shows it: a button, its Cancel, and a line that tells how it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from densepose_tools.one_click import MadeMotion, MotionConfig
from magicanimate.config import Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import without_folders
from magicanimate.webui import views
from magicanimate.webui.events import PRIVATE, Updates
from magicanimate.webui.service import AnimationService


class MotionJob:
    """Builds the two buttons where it is made, and the line under them.

    Args:
        service: does the work.
        name: tells this work of a visitor from other work of the same visitor.
        label: what the button says.
    """

    def __init__(self, service: AnimationService, name: str, label: str):
        self.service, self.name = service, name
        with gr.Row():
            self.start = gr.Button(label, variant="primary", elem_id=f"make-{name}")
            self.cancel = gr.Button("Cancel", visible=False, elem_id=f"cancel-{name}")
        self.status = gr.HTML("", visible=False, padding=False, elem_id=f"{name}-status")

    def connect(self, make: Callable, inputs: Any, outputs: list) -> gr.events.Dependency:
        """Let the button run ``make``, which yields updates; more may be attached to the answer."""
        buttons = [self.start, self.cancel]
        admitted = self.start.click(self.admit, None, [self.status, *buttons], queue=False, **PRIVATE)
        ended = admitted.then(make, inputs, [self.status, self.start, *outputs], **PRIVATE)
        self.cancel.click(self.stop, None, self.cancel, queue=False, **PRIVATE)
        return ended.then(self._release, None, buttons, queue=False, **PRIVATE)

    def of(self, request: gr.Request) -> str:
        """The visitor's name for this work."""
        return f"{request.session_hash}/{self.name}"

    def admit(self, request: gr.Request) -> Updates:
        """The visitor has pressed the button."""
        self.service.admit(self.of(request))
        return {
            self.status: gr.update(value=views.message(self.service.conversion_begins()), visible=True),
            self.start: gr.update(interactive=False),
            self.cancel: gr.update(visible=True),
        }

    def stop(self, request: gr.Request) -> Updates:
        """The visitor has pressed Cancel."""
        self.service.cancel(self.of(request))
        return {self.cancel: gr.update(value="Stopping…", interactive=False)}

    def _release(self) -> Updates:
        return {
            self.start: gr.update(interactive=True),
            self.cancel: gr.update(value="Cancel", interactive=True, visible=False),
        }

    def run(
        self,
        request: gr.Request,
        clip: str | None,
        config: Callable[[], MotionConfig],
        made: Callable[[MadeMotion], Updates],
        *,
        earlier: MadeMotion | None = None,
        then: str = "",
    ) -> Iterator[Updates]:
        """Make the clip; yields how it goes, and at last what ``made`` answers, or why there is nothing.

        ``then`` is added to what is said of the clip.
        """
        try:
            if not clip:
                raise InputError("Add a video.")
            for report in self.service.make_motion(self.of(request), Path(clip), config(), earlier=earlier):
                if isinstance(report, Progress):
                    yield {self.status: views.progress_bar(report)}
                else:
                    yield {self.status: views.motion_made(report, then), **made(report)}
        except InputError as error:
            yield {self.status: views.message(without_folders(str(error), clip), kind="error")}
        except Cancelled:
            text = "Cancelled. What was detected is kept; converting again continues from there."
            yield {self.status: views.message(text)}
