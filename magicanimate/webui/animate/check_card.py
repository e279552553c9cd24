"""The card above Animate: what goes in after fitting, and what is to be expected."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from densepose_tools.photo_people import PhotoBodies
from magicanimate.webui import views
from magicanimate.webui.animate.forecast import Forecast, Forecaster
from magicanimate.webui.animate.form import Controls
from magicanimate.webui.animate.motion_panel import MotionPanel, motion_of
from magicanimate.webui.studio import Studio

_MATTERS = (
    "photo",
    "motion",
    "seeds",
    "preset",
    "num_inference_steps",
    "guidance_scale",
    "width",
    "height",
    "fit",
    "start",
    "end",
    "stride",
    "fps",
    "fusion",
    "windows",
    "window_size",
    "window_overlap",
    "window_offset",
    "check_motion",
)
"""Controls whose changes are looked at."""

_MARKS = {"good": "✓", "note": "·", "warning": "!", "error": "✕"}
_SPOKEN = {"good": "fine", "note": "note", "warning": "warning", "error": "problem"}
_SIDE = 320  # pixels of the pictures


class CheckCard:
    """Shows itself when photo and clip are in, and follows the settings. It never stands in Animate's way.

    Args:
        studio: knows the checkpoint, the device and the folder of results.
        controls: of the form.
        panel: knows the DensePose clip that was made of the visitor's video.
    """

    def __init__(self, studio: Studio, controls: Controls, panel: MotionPanel):
        self.studio, self.controls, self.panel = studio, controls, panel
        self.bodies = PhotoBodies.at_hand()
        self.card = gr.HTML("", visible=False, padding=False, elem_id="check")

    def connect(self) -> None:
        """Attach the handlers; every widget of the page is there now."""
        changes = [self.controls[name].change for name in _MATTERS]
        opened = gr.context.Context.root_block.load
        gr.on(
            [opened, *changes, self.panel.made.change],
            self._look,
            {*self.controls.values(), self.panel.made},
            self.card,
            trigger_mode="always_last",
            concurrency_limit=2,
            api_visibility="private",
            show_progress="hidden",
        )

    def _look(self, data: dict) -> Iterator[Any]:
        """Look at what is in the form, showing more and more."""
        values = {name: data[widget] for name, widget in self.controls.items()}
        values["motion"] = motion_of(values["motion"], data[self.panel.made])
        if not (values["photo"] and values["motion"]):
            yield gr.update(value="", visible=False)
            return
        forecaster = Forecaster(
            self.studio.defaults(),  # of the checkpoint that is used now
            self.studio.output,
            bodies=self.bodies,
            device=lambda: self.studio.animator.device,
            time_trial=lambda: self.studio.animator.time_trial,
            memory=self.studio.animator.memory_outlook,
            ready=lambda: self.studio.was_ready,
        )
        for forecast in forecaster.looks(values):
            yield gr.update(value=card(forecast), visible=True)


def card(forecast: Forecast) -> str:
    """The card of a forecast."""
    pictures = "".join(
        f"<figure>{_picture(pixels, label)}<figcaption>{label}</figcaption></figure>"
        for pixels, label in ((forecast.photo, "photo as used"), (forecast.motion, "clip as used"))
        if pixels is not None
    )
    lines = "".join(
        f'<li class="ma-is-{remark.level}"><span aria-label="{_SPOKEN[remark.level]}" role="img">'
        f"{_MARKS[remark.level]}</span>{html.escape(remark.text)}</li>"
        for remark in forecast.remarks
    )
    if not forecast.complete:
        lines += '<li><span aria-hidden="true">…</span>looking at it</li>'
    return (
        '<section class="ma-check" aria-label="Check before animating" aria-busy='
        f'"{str(not forecast.complete).lower()}"><div class="ma-check-pictures">{pictures}</div>'
        f"<ul>{lines}</ul></section>"
    )


def _picture(pixels: np.ndarray, label: str) -> str:
    """A picture, uint8 (H, W, 3), as an ``img`` of its own."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=85)
    return views.picture(file.getvalue(), label=label, css="ma-check-picture")
