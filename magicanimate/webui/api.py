"""The API for other programs, by ``gradio_client`` or HTTP: ``/animate``, and ``/animate_several`` for
several photos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.config import CLIP_BACKGROUND, IN_PHOTO, AnimationRequest, with_current_names
from magicanimate.errors import InputError
from magicanimate.files import read_json_object
from magicanimate.webui.animate.form_values import FILE, MOTION_STEPS, PHOTOS, form_settings, request_of
from magicanimate.webui.jobs.queue import Job
from magicanimate.webui.service import AnimationService

API_NAMES = _ONE, _SEVERAL = "animate", "animate_several"
"""The only events of the page that programs may call."""

AT_A_TIME = 4
"""Calls that may wait for their results at the same time; animations run one after the other anyway."""

_UPDATE_EVERY = 1.0
"""Seconds. After each update Gradio checks whether the caller has left, and ends the call then."""

_DESCRIPTION = (
    "Animate a photo with a DensePose clip. Settings are optional and named as in the JSON beside a result. "
    "While it runs the report says stage, step, total and seconds_left; at last stage done and all settings."
)

_DESCRIPTION_OF_SEVERAL = (
    "The same for a dance of several people, with a photo for each, from left to right; the settings take a "
    'background, and cast, such as "2,1", for who becomes whom.'
)

Reply = tuple[str | None, dict[str, Any]]


class AnimateEndpoint:
    """Adds the endpoints to the page that is being built, as invisible widgets.

    Args:
        service: runs the animations.
    """

    def __init__(self, service: AnimationService):
        self.service = service
        photo = gr.File(label="Photo", visible=False)
        motion = gr.File(label="DensePose clip", visible=False)
        settings = gr.JSON(value={}, label="Settings", visible=False)
        photos = gr.File(file_count="multiple", label="Photos", visible=False)
        video = gr.File(label="Video", visible=False)
        report = gr.JSON(label="Report", visible=False)
        for work, given, name, description in (
            (self._animate, photo, _ONE, _DESCRIPTION),
            (self._animate_several, photos, _SEVERAL, _DESCRIPTION_OF_SEVERAL),
        ):
            gr.Button(visible=False).click(
                work,
                [given, motion, settings],
                [video, report],
                api_name=name,
                api_description=description,
                concurrency_id=_ONE,
                concurrency_limit=AT_A_TIME,
            )

    def _animate(
        self, photo: str | None, motion: str | None, settings: dict | None, request: gr.Request
    ) -> Iterator[Reply]:
        yield from self._animate_several([photo] if photo else [], motion, settings, request)

    def _animate_several(
        self, photos: list[str] | None, motion: str | None, settings: dict | None, request: gr.Request
    ) -> Iterator[Reply]:
        """Submit a job and follow it; it is cancelled if the caller leaves.

        Raises:
            InputError: the request cannot be used, or the job failed or was cancelled.
        """
        defaults = self.service.defaults()
        output = self.service.output
        photo, *others = photos or [None]
        wanted = api_request(photo, motion, settings, others, defaults=defaults, output=output)
        owner = (request.username or f"api {request.session_hash}") if self.service.shared else ""
        # A clip that is its own background is an ordinary video, which is converted first.
        people = "all" if wanted.other_photos else "largest"
        steps = {"convert": True, "people": people} if wanted.background == CLIP_BACKGROUND else None
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


_FORM_ONLY = ("random_seed", "seeds", "size", *MOTION_STEPS)
"""Settings of the form alone: programs draw seeds, choose sizes and edit clips themselves."""


def api_request(
    photo: str | None,
    motion: str | None,
    settings: Mapping[str, Any] | None,
    others: Sequence[str] = (),
    *,
    defaults: ModelDefaults,
    output: Path,
) -> AnimationRequest:
    """The request of a call.

    Args:
        photo, motion: files.
        settings: by the names of `AnimationRequest`, within the page's ranges; the defaults of preset and
            model fill in what is left out or ``None``.
        others: files of the other dancers' photos.
        defaults: of the checkpoint.
        output: where the result goes.

    Raises:
        InputError: a file is missing, or a setting is unknown or has a value it cannot have.
    """
    for file, what in ((photo, "photo"), (motion, "motion clip")):
        if not file:
            raise InputError(f"There is no {what}; send one.")
    known = {name: each for name, each in form_settings(defaults).items() if name not in _FORM_ONLY}
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
            "The background 'file' needs a file, which cannot be sent; choose photo, still, clip (the motion "
            "is an ordinary video then), transparent or colour (with background_colour)."
        )
    if others and given.get("background") in IN_PHOTO:
        raise InputError("Several photos need another background; choose clip, transparent or colour.")
    files = {"photo": photo, "motion": motion, PHOTOS: list(others)}
    return request_of({**files, "seed": known["seed"].default, **given}, output)
