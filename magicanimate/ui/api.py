"""The endpoint ``/animate`` for programs, which call it by ``gradio_client`` or over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.config import AnimationResult, Progress
from magicanimate.errors import Cancelled, InputError
from magicanimate.studio.api_request import api_request
from magicanimate.ui.studio import Studio
from magicanimate.wording import new_output

AT_A_TIME = 4
"""Calls that may wait for their result; animations run one after the other anyway."""

_DESCRIPTION = (
    "Animate a photo with a DensePose clip. Settings are those of the JSON beside a result, all optional. "
    "While it runs the report says stage, step, total and seconds_left; at last stage done and all settings."
)

Reply = tuple[str | None, dict[str, Any]]


class AnimateEndpoint:
    """Adds the endpoint to the page that is being built; it shows nothing there.

    Args:
        studio: runs the animations.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        photo = gr.File(label="Photo", visible=False)
        motion = gr.File(label="DensePose clip", visible=False)
        settings = gr.JSON(value={}, label="Settings", visible=False)
        video = gr.File(label="Video", visible=False)
        report = gr.JSON(label="Report", visible=False)
        gr.Button(visible=False).click(
            self._animate,
            [photo, motion, settings],
            [video, report],
            api_name="animate",
            api_description=_DESCRIPTION,
            concurrency_limit=AT_A_TIME,
        )

    def _animate(
        self, photo: str | None, motion: str | None, settings: dict | None, request: gr.Request
    ) -> Iterator[Reply]:
        try:
            output = new_output(self.studio.output, Path(photo or ""), Path(motion or ""))
            wanted = api_request(photo, motion, settings, defaults=self.studio.defaults(), output=output)
            for news in self.studio.animate(f"{request.session_hash}/api", wanted):
                yield _reply(news)
        except Cancelled as error:
            raise InputError("The animation was cancelled.") from error


def _reply(news: Progress | AnimationResult) -> Reply:
    if isinstance(news, AnimationResult):
        return str(news.output), {"stage": "done", **news.settings}
    left = {"seconds_left": news.seconds_left}
    return None, {"stage": news.stage, "step": news.step, "total": news.total, **left}
