"""The widgets of the settings; what their values mean is in `magicanimate.webui.animate.form_values`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.errors import InputError
from magicanimate.webui import STATIC
from magicanimate.webui.animate.form_values import (
    LARGEST_SEED,
    OWN_SCHEDULER,
    Setting,
    form_settings,
    of_result,
    request_of,
    requests_of,
    steps_of,
)
from magicanimate.webui.animate.sizes import CUSTOM, size_choices, size_of
from magicanimate.webui.events import PRIVATE

__all__ = ["LARGEST_SEED", "OWN_SCHEDULER", "request_of", "requests_of"]

DICE = STATIC / "dice.png"
KEYS = STATIC / "keys.js"

Controls = dict[str, gr.components.Component]

_WORDS = {
    "seed": ("Seed", "same seed, same video"),
    "random_seed": ("A new seed each time", None),
    "seeds": ("Several seeds at once", "this one, the next one ..."),
    "preset": ("Speed", "what is given up for time; sets the steps, too"),
    "num_inference_steps": ("Steps", "more refine, take longer"),
    "guidance_scale": ("Guidance", "towards the photo; 1: quickest"),
    "size": ("Size", "of the result in pixels"),
    "width": ("Width", "multiple of 8"),
    "height": ("Height", "multiple of 8"),
    "fit": ("Fit", "auto crops where the people stay in the picture, else pads; stretch is as published"),
    "start": ("From second", "0: the beginning"),
    "end": ("To second", "0: the end"),
    "stride": ("Frame step", "2: every other"),
    "fps": ("Frame rate", "0: the clip's"),
    "reference_strength": ("Photo strength", "1 as trained, 0 not at all"),
    "controlnet_conditioning_scale": ("Pose strength", "of the clip; 1 as trained"),
    "fusion": ("Fusion", "parts of the network that look at the photo; midup as trained"),
    "windows": ("Windows", "ring joins the end to the beginning, as published"),
    "window_size": ("Window size", "frames made together"),
    "window_overlap": ("Overlap", "more hides seams, takes longer"),
    "window_offset": ("Move windows from step to step", None),
    "scheduler": ("Scheduler", "the method of denoising; default: as speed and checkpoint say"),
    "side_by_side": ("Also make the side by side video", None),
    "sound": ("Keep the clip's sound", None),
    "credentials": ("Sign the result as AI-generated (content credentials)", None),
    "check_motion": ("Check that the clip is DensePose", None),
    "prompt": ("Prompt", "may stay empty"),
    "negative_prompt": ("Negative prompt", "what to stay away from"),
}
"""Label and explanation of each setting."""


def values_of(settings: Mapping[str, Any], defaults: ModelDefaults) -> dict[str, Any]:
    """Values by name of control that would make a result again, without photo and clip.

    Args:
        settings: the JSON beside the result.
        defaults: of the checkpoint.
    """
    return of_result(settings, form_settings(defaults)).values


def path_only(payload: gr.FileData | None) -> str | None:
    """Instead of `gr.Image.preprocess`, which answers a broken picture with a traceback."""
    return payload.path if payload else None


def inputs(*, photo: str | None, motion: str | None, keypoints: bool) -> Controls:
    """Photo, motion clip and, if the checkpoint takes one, the clip of drawn keypoints."""
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
    controls["keypoints"] = gr.Video(
        label="Keypoint clip (this checkpoint wants the same frames' keypoints, drawn)",
        sources=["upload"],
        height=240,
        loop=True,
        visible=keypoints,
        elem_id="keypoints",
    )
    # Set on the object, since a subclass would make Gradio write a file beside this one.
    controls["photo"].preprocess = path_only
    return controls


def main_settings(defaults: ModelDefaults) -> tuple[Controls, gr.Button]:
    """Seed, steps and guidance; also the dice."""
    settings = form_settings(defaults)
    controls: Controls = {}
    with gr.Row(equal_height=True):
        controls["seed"] = _slider("seed", settings, scale=6)
        dice = gr.Button("Random", icon=DICE, scale=1, min_width=110, elem_id="dice", elem_classes="ma-dice")
    controls["random_seed"] = _checkbox("random_seed", settings)
    with gr.Row():
        controls["num_inference_steps"] = _slider("num_inference_steps", settings, elem_id="steps")
        controls["guidance_scale"] = _slider("guidance_scale", settings, step=0.1, elem_id="guidance")
    return controls, dice


def more_settings(defaults: ModelDefaults) -> Controls:
    """Everything else in groups, with values that suit a first try."""
    settings = form_settings(defaults)
    controls: Controls = {}
    with _group("Size"):
        with gr.Row():
            sizes = [(choice.label, choice.name) for choice in size_choices(defaults)]
            controls["size"] = _dropdown("size", settings, choices=sizes, scale=2, min_width=250)
            for name in ("width", "height"):
                controls[name] = _number(name, settings, step=8, min_width=90)
        controls["fit"] = _radio("fit", settings)
    with _group("Clip"), gr.Row():
        for name in ("start", "end", "stride", "fps"):
            controls[name] = _number(name, settings, min_width=120)
    with _group("Likeness and pose"):
        with gr.Row():
            controls["reference_strength"] = _slider("reference_strength", settings, step=0.05)
            controls["controlnet_conditioning_scale"] = _slider(
                "controlnet_conditioning_scale", settings, step=0.05
            )
        controls["fusion"] = _radio("fusion", settings)
    with _group("Sampling"):
        controls["preset"] = _radio("preset", settings)
        with gr.Row():
            controls["scheduler"] = _dropdown("scheduler", settings, min_width=220)
            controls["seeds"] = _slider("seeds", settings)
    with _group("Long clips"):
        with gr.Row():
            controls["window_size"] = _slider("window_size", settings)
            controls["window_overlap"] = _slider("window_overlap", settings)
        controls["windows"] = _radio("windows", settings)
        controls["window_offset"] = _checkbox("window_offset", settings)
    with _group("Result"):
        for name in ("side_by_side", "sound", "credentials", "check_motion"):
            controls[name] = _checkbox(name, settings)
    with _group("Text", visible=defaults.kind != "mini"), gr.Row():
        for name in ("prompt", "negative_prompt"):
            label, info = _WORDS[name]
            controls[name] = gr.Textbox(settings[name].default, label=label, info=info, min_width=220)
    return controls


def connect(controls: Controls, defaults: Callable[[], ModelDefaults]) -> None:
    """Let the settings that follow others follow them; every widget of the form is there now.

    Args:
        controls: of the form.
        defaults: of the checkpoint that is used now.
    """
    gr.context.Context.root_block.load(None, None, None, js=KEYS.read_text(encoding="utf-8"), **PRIVATE)
    sides = [controls["width"], controls["height"]]

    def sides_of(size: str, photo: str | None, motion: str | None) -> tuple[Any, Any]:
        try:
            found = size_of(size, defaults(), {"photo": photo, "motion": motion})
        except InputError:  # the check card says what is wrong with the file
            found = None
        return found or (gr.skip(), gr.skip())

    files = [controls["photo"], controls["motion"]]
    gr.on(
        [controls["size"].change, *(file.change for file in files)],
        sides_of,
        [controls["size"], *files],
        sides,
        **PRIVATE,
    )
    for side in sides:
        side.input(lambda: CUSTOM, None, controls["size"], queue=False, **PRIVATE)
    controls["preset"].input(
        lambda preset: steps_of(preset, defaults()),
        controls["preset"],
        controls["num_inference_steps"],
        queue=False,
        **PRIVATE,
    )


def _group(title: str, *, visible: bool = True) -> gr.Column:
    """A column under a short heading."""
    with gr.Column(visible=visible, elem_classes="ma-group", min_width=0) as column:
        gr.HTML(f"<h3>{title}</h3>", padding=False)
    return column


def _slider(name: str, settings: dict[str, Setting], *, step: float = 1, **layout: Any) -> gr.Slider:
    setting, (label, info) = settings[name], _WORDS[name]
    layout = {"elem_id": name, "min_width": 220} | layout
    return gr.Slider(
        setting.low, setting.high, value=setting.default, step=step, label=label, info=info, **layout
    )


def _number(name: str, settings: dict[str, Setting], *, step: float = 1, **layout: Any) -> gr.Number:
    setting, (label, info) = settings[name], _WORDS[name]
    whole = isinstance(setting.default, int)
    return gr.Number(
        setting.default,
        label=label,
        info=info,
        minimum=setting.low,
        maximum=setting.high,
        step=step,
        precision=0 if whole else None,
        elem_id=name,
        **layout,
    )


def _radio(name: str, settings: dict[str, Setting]) -> gr.Radio:
    setting, (label, info) = settings[name], _WORDS[name]
    return gr.Radio(list(setting.choices), value=setting.default, label=label, info=info, elem_id=name)


def _dropdown(
    name: str, settings: dict[str, Setting], *, choices: list | None = None, **layout: Any
) -> gr.Dropdown:
    setting, (label, info) = settings[name], _WORDS[name]
    choices = choices or list(setting.choices)
    return gr.Dropdown(choices, value=setting.default, label=label, info=info, elem_id=name, **layout)


def _checkbox(name: str, settings: dict[str, Setting]) -> gr.Checkbox:
    return gr.Checkbox(settings[name].default, label=_WORDS[name][0], container=False, elem_id=name)
