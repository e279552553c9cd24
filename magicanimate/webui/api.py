"""The endpoint ``/animate`` for programs, which call it by ``gradio_client`` or over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.config import CLIP_BACKGROUND, AnimationRequest, with_current_names
from magicanimate.errors import InputError
from magicanimate.files import read_json_object
from magicanimate.webui.animate.form_values import FILE, MOTION_STEPS, form_settings, request_of
from magicanimate.webui.jobs.job import Job
from magicanimate.webui.service import AnimationService

API_NAME = "animate"
"""The only event of the page that programs may call."""

AT_A_TIME = 4
"""Calls that may wait for their result; animations run one after the other anyway."""

_UPDATE_EVERY = 1.0
"""Seconds. Gradio ends a call whose caller has left only after the next update."""

_DESCRIPTION = (
    "Animate a photo with a DensePose clip. Settings are optional and named as in the JSON beside a result. "
    "While it runs the report says stage, step, total and seconds_left; at last stage done and all settings."
)

Reply = tuple[str | None, dict[str, Any]]


class AnimateEndpoint:
    """Adds the endpoint to the page that is being built; it shows nothing there.

    Args:
        service: runs the animations.
    """

    def __init__(self, service: AnimationService):
        self.service = service
        photo = gr.File(label="Photo", visible=False)
        motion = gr.File(label="DensePose clip", visible=False)
        settings = gr.JSON(value={}, label="Settings", visible=False)
        video = gr.File(label="Video", visible=False)
        report = gr.JSON(label="Report", visible=False)
        gr.Button(visible=False).click(
            self._animate,
            [photo, motion, settings],
            [video, report],
            api_name=API_NAME,
            api_description=_DESCRIPTION,
            concurrency_limit=AT_A_TIME,
        )

    def _animate(
        self, photo: str | None, motion: str | None, settings: dict | None, request: gr.Request
    ) -> Iterator[Reply]:
        """Submit a job and follow it; a caller who leaves takes it along.

        Raises:
            InputError: the request cannot be used, or the job failed or was cancelled.
        """
        defaults = self.service.defaults()
        wanted = api_request(photo, motion, settings, defaults=defaults, output=self.service.output)
        owner = (request.username or f"api {request.session_hash}") if self.service.shared else ""
        # The video that is to be its own background is converted first.
        steps = {"convert": True} if wanted.background == CLIP_BACKGROUND else None
        job = self.service.submit(wanted, owner=owner, steps=steps)
        try:
            for update in self.service.queue.follow(job.id, at_least_every=_UPDATE_EVERY):
                yield _reply(update)
                if update.state == "done":
                    return
            raise InputError("The animation was taken out of the queue.")
        finally:
            self.service.queue.cancel(job.id)


def _reply(job: Job) -> Reply:
    if job.state == "done":
        video, settings_file = job.results[:2]
        return video, {"stage": "done", **read_json_object(Path(settings_file))}
    if job.is_over or job.state == "interrupted":
        raise InputError(job.error or "The animation was cancelled.")
    now = job.progress
    if now is None:
        return None, {"stage": job.state, "step": 0, "total": 0, "seconds_left": None}
    left = {"seconds_left": now.seconds_left}
    return None, {"stage": now.stage, "step": now.step, "total": now.total, **left}


_OF_THE_FORM = ("random_seed", "seeds", "size", *MOTION_STEPS)
"""What only a form needs: a program draws its own seeds, gives width and height, and edits its own clip."""


def api_request(
    photo: str | None,
    motion: str | None,
    settings: Mapping[str, Any] | None,
    *,
    defaults: ModelDefaults,
    output: Path,
) -> AnimationRequest:
    """The request that a program means.

    Args:
        photo, motion: files.
        settings: by the names of `AnimationRequest`, within the page's ranges; what is left out or ``None``
            is as the preset and the checkpoint say.
        defaults: of the checkpoint.
        output: where the result goes.

    Raises:
        InputError: a file is missing, or a setting is unknown or has a value it cannot have.
    """
    for file, what in ((photo, "photo"), (motion, "motion clip")):
        if not file:
            raise InputError(f"There is no {what}; send one.")
    known = {name: each for name, each in form_settings(defaults).items() if name not in _OF_THE_FORM}
    if not isinstance(settings or {}, Mapping):
        raise InputError('The settings are not of the form {name: value}; write for example {"seed": 7}.')
    given = {name: value for name, value in with_current_names(settings or {}).items() if value is not None}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"There is no setting {name!r}; choose from: {', '.join(known)}.")
        if trouble := known[name].trouble(value, name):
            raise InputError(f"The setting {name} is {str(value)[:40]!r}; {trouble}")
    if given.get("background") == FILE:
        raise InputError(
            "The background 'file' needs a file, which cannot be sent; choose photo, clip (the motion is an "
            "ordinary video then), transparent or colour (with background_colour)."
        )
    return request_of({"photo": photo, "motion": motion, "seed": known["seed"].default, **given}, output)
