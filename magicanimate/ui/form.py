"""The settings on the page: their widgets, and the request they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.config import FITS, FUSIONS, WINDOW_MODES, AnimationRequest
from magicanimate.errors import InputError

LARGEST_SEED = 2**31 - 1
OWN_SCHEDULER = "the checkpoint's own"
SCHEDULERS = (
    OWN_SCHEDULER,
    "DDIMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
)

Controls = dict[str, gr.components.Component]


class Photo(gr.Image):
    """An image field that hands on the file as it was uploaded: orientation, depth and errors are ours."""

    def preprocess(self, payload) -> str | None:
        return payload.path if payload else None


def inputs(*, photo: str | None, motion: str | None) -> Controls:
    """Photo and motion clip."""
    with gr.Row(equal_height=True):
        return {
            "photo": Photo(
                photo,
                label="Photo",
                type="filepath",
                sources=["upload", "clipboard"],
                image_mode=None,
                height=300,
                elem_id="photo",
            ),
            "motion": gr.Video(
                motion,
                label="Motion (DensePose clip)",
                sources=["upload"],
                height=300,
                loop=True,
                autoplay=True,
                elem_id="motion",
            ),
        }


def main_settings(defaults: ModelDefaults) -> tuple[Controls, gr.Button]:
    """Seed, steps and guidance; also the dice."""
    controls: Controls = {}
    with gr.Row(equal_height=True, elem_classes="ma-seed"):
        controls["seed"] = gr.Slider(0, LARGEST_SEED, value=1, step=1, label="Seed", scale=6, elem_id="seed")
        dice = gr.Button("🎲", scale=1, min_width=48, elem_id="dice", elem_classes="ma-dice")
    controls["random_seed"] = gr.Checkbox(False, label="A new seed each time", container=False)
    with gr.Row():
        controls["num_inference_steps"] = gr.Slider(
            1, 100, value=defaults.num_inference_steps, step=1, label="Steps", elem_id="steps"
        )
        controls["guidance_scale"] = gr.Slider(
            1,
            20,
            value=defaults.guidance_scale,
            step=0.1,
            label="Guidance: how closely to follow the photo",
            elem_id="guidance",
        )
    return controls, dice


def more_settings(defaults: ModelDefaults) -> Controls:
    """Everything else, with values that suit a first try. Numbers left empty mean what their label says."""
    own = AnimationRequest(Path(), Path(), Path())
    controls: Controls = {}
    with gr.Row():
        controls["width"] = gr.Number(defaults.width, label="Width", step=8, precision=0, min_width=110)
        controls["height"] = gr.Number(defaults.height, label="Height", step=8, precision=0, min_width=110)
        controls["fit"] = gr.Radio(
            list(FITS), value=own.fit, label="Fit", info="crop keeps proportions, pad shows all"
        )
    with gr.Row():
        controls["start"] = gr.Number(own.start, label="From second", min_width=110)
        controls["end"] = gr.Number(None, label="To second (empty: the end)", min_width=110)
        controls["stride"] = gr.Number(
            own.stride, label="Every n-th frame", precision=0, minimum=1, min_width=110
        )
        controls["fps"] = gr.Number(None, label="Frame rate (empty: the clip's)", min_width=110)
    with gr.Row():
        controls["windows"] = gr.Radio(list(WINDOW_MODES), value=own.windows, label="Windows")
        controls["window_size"] = gr.Slider(1, 24, value=own.window_size, step=1, label="Frames of a window")
        controls["window_overlap"] = gr.Slider(0, 23, value=own.window_overlap, step=1, label="Overlap")
    with gr.Row():
        controls["scheduler"] = gr.Dropdown(list(SCHEDULERS), value=OWN_SCHEDULER, label="Scheduler")
        controls["fusion"] = gr.Radio(list(FUSIONS), value=own.fusion, label="Blocks that see the photo")
    with gr.Row():
        controls["side_by_side"] = gr.Checkbox(True, label="Side by side")
        controls["sound"] = gr.Checkbox(own.sound, label="Sound of the clip")
        controls["window_offset"] = gr.Checkbox(own.window_offset, label="Move windows from step to step")
        controls["check_motion"] = gr.Checkbox(own.check_motion, label="Check that the clip is DensePose")
    with gr.Row(visible=defaults.kind != "mini"):
        controls["prompt"] = gr.Textbox("", label="Prompt (may stay empty)")
        controls["negative_prompt"] = gr.Textbox("", label="Negative prompt")
    return controls


def request_of(values: Mapping[str, Any], output: Path) -> AnimationRequest:
    """The request that the values of the widgets mean.

    Raises:
        InputError: photo or clip is missing.
    """
    for name, what in (("photo", "a photo"), ("motion", "a motion clip")):
        if not values[name]:
            raise InputError(f"There is no {name} yet; upload {what} or choose an example.")
    given = {
        name: value
        for name, value in values.items()
        if name in AnimationRequest.names() and value not in (None, OWN_SCHEDULER)
    }
    paths = {"photo": Path(values["photo"]), "motion": Path(values["motion"]), "output": output}
    return AnimationRequest(**{**given, **paths, "seed": int(values["seed"]), "preview_every": 1})
