"""The settings on the page: their widgets, and the request they make."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.config import FITS, FUSIONS, WINDOW_MODES, AnimationRequest
from magicanimate.errors import InputError

DICE = Path(__file__).with_name("dice.svg")
LARGEST_SEED = 2**31 - 1
OWN_SCHEDULER = "default"
SCHEDULERS = (
    OWN_SCHEDULER,
    "DDIMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
)

Controls = dict[str, gr.components.Component]


def path_only(payload: gr.FileData | None) -> str | None:
    """Instead of `gr.Image.preprocess`, which answers a broken picture with a traceback."""
    return payload.path if payload else None


def inputs(*, photo: str | None, motion: str | None) -> Controls:
    """Photo and motion clip."""
    with gr.Row(equal_height=True):
        controls: Controls = {
            "photo": gr.Image(
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
                label="Motion clip",
                sources=["upload"],
                height=300,
                loop=True,
                autoplay=True,
                elem_id="motion",
            ),
        }
    # Set on the object, since a subclass would make Gradio write a file beside this one.
    controls["photo"].preprocess = path_only
    return controls


def main_settings(defaults: ModelDefaults) -> tuple[Controls, gr.Button]:
    """Seed, steps and guidance; also the dice."""
    controls: Controls = {}
    with gr.Row(equal_height=True):
        controls["seed"] = gr.Slider(0, LARGEST_SEED, value=1, step=1, label="Seed", scale=6, elem_id="seed")
        dice = gr.Button("Random", icon=DICE, scale=1, min_width=110, elem_id="dice", elem_classes="ma-dice")
    controls["random_seed"] = gr.Checkbox(False, label="A new seed each time", container=False)
    with gr.Row():
        controls["num_inference_steps"] = gr.Slider(
            1, 100, value=defaults.num_inference_steps, step=1, label="Steps", elem_id="steps", min_width=220
        )
        controls["guidance_scale"] = gr.Slider(
            1,
            20,
            value=defaults.guidance_scale,
            step=0.1,
            label="Guidance",
            min_width=220,
            elem_id="guidance",
        )
    return controls, dice


def more_settings(defaults: ModelDefaults) -> Controls:
    """Everything else, with values that suit a first try."""
    own = AnimationRequest(Path(), Path(), Path())
    controls: Controls = {}
    with gr.Row():
        controls["width"] = gr.Number(defaults.width, label="Width", step=8, precision=0, min_width=90)
        controls["height"] = gr.Number(defaults.height, label="Height", step=8, precision=0, min_width=90)
        controls["fit"] = gr.Radio(
            list(FITS),
            value=own.fit,
            label="Fit",
            info="crop keeps proportions, pad shows all of both",
            scale=3,
            min_width=270,
        )
    with gr.Row():
        controls["start"] = gr.Number(own.start, label="From second", minimum=0, min_width=120)
        controls["end"] = gr.Number(0, label="To second", info="0: the end", minimum=0, min_width=120)
        controls["stride"] = gr.Number(own.stride, label="Frame step", precision=0, minimum=1, min_width=120)
        controls["fps"] = gr.Number(0, label="Frame rate", info="0: the clip's", minimum=0, min_width=120)
    with gr.Row():
        controls["window_size"] = gr.Slider(
            1, 24, value=own.window_size, step=1, label="Window size", min_width=220
        )
        controls["window_overlap"] = gr.Slider(
            0, 23, value=own.window_overlap, step=1, label="Overlap", min_width=220
        )
    with gr.Row():
        controls["windows"] = gr.Radio(list(WINDOW_MODES), value=own.windows, label="Windows", min_width=160)
        controls["fusion"] = gr.Radio(list(FUSIONS), value=own.fusion, label="Fusion", min_width=160)
        controls["scheduler"] = gr.Dropdown(
            list(SCHEDULERS), value=OWN_SCHEDULER, label="Scheduler", min_width=200
        )
    for row in (
        (
            ("side_by_side", True, "Also make the side by side video"),
            ("sound", own.sound, "Keep the clip's sound"),
        ),
        (
            ("window_offset", own.window_offset, "Move windows from step to step"),
            ("check_motion", own.check_motion, "Check that the clip is DensePose"),
        ),
    ):
        with gr.Row():
            for name, checked, label in row:
                controls[name] = gr.Checkbox(checked, label=label, container=False)
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
    for name in ("end", "fps"):
        if given.get(name) == 0:
            del given[name]
    paths = {"photo": Path(values["photo"]), "motion": Path(values["motion"]), "output": output}
    return AnimationRequest(**{**given, **paths, "seed": int(values["seed"]), "preview_every": 1})
