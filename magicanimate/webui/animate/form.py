"""The widgets of the form, built from the settings that `magicanimate.webui.animate.form_values` declares."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from magicanimate import lora
from magicanimate.animator import ModelDefaults
from magicanimate.config import IN_PHOTO, OLD_NAMES, AnimationRequest
from magicanimate.errors import InputError
from magicanimate.webui import STATIC
from magicanimate.webui.animate.form_values import (
    COLOUR,
    CUSTOM,
    FILE,
    Setting,
    form_settings,
    size_choices,
    size_of,
    steps_of,
)
from magicanimate.webui.texts import choice_name, explained, label_of, tr
from magicanimate.webui.views import PRIVATE

KEYS = STATIC / "keys.js"
REMEMBER = STATIC / "remember.js"
HEIGHT = 200  # pixels of photo and clip: the button Animate stays in sight on a small screen

Controls = dict[str, gr.components.Component]


def path_only(payload: gr.FileData | None) -> str | None:
    """In place of `gr.Image.preprocess`, which opens the picture and fails on a broken one."""
    return payload.path if payload else None


def inputs(*, photo: str | None, motion: str | None, keypoints: bool) -> Controls:
    """Photo, dance video and, if the model takes one, the clip of drawn keypoints."""
    with gr.Row(elem_id="inputs"):
        controls: Controls = {
            "photo": gr.Image(
                photo,
                label=tr("Photo"),
                type="filepath",
                sources=["upload"],  # keys.js takes what is pasted
                image_mode=None,
                height=HEIGHT,
                buttons=[],
                min_width=140,
                placeholder=tr("Drop or paste a photo of one person, or click"),
                elem_id="photo",
            ),
            "motion": gr.Video(
                motion,
                label=tr("Dance video"),
                sources=["upload"],
                height=HEIGHT,
                buttons=[],
                min_width=140,
                loop=True,
                autoplay=True,
                elem_id="motion",
            ),
        }
    controls["keypoints"] = gr.Video(
        label=tr("Keypoint clip (this model wants the same frames' keypoints, drawn)"),
        sources=["upload"],
        height=240,
        loop=True,
        visible=keypoints,
        elem_id="keypoints",
    )
    # Set on the object, since Gradio writes a .pyi file beside the module of any subclass of a component.
    controls["photo"].preprocess = path_only
    return controls


def main_settings(defaults: ModelDefaults) -> tuple[Controls, gr.Button]:
    """What everybody may want to change, quality and seed, and the button that draws a new seed."""
    settings = form_settings(defaults)
    controls: Controls = {}
    with gr.Row(elem_id="main-settings"):
        controls["preset"] = _radio(
            "preset", settings, reverse=True, scale=5, min_width=250, visible=_has_steps(defaults)
        )
        with gr.Column(scale=3, min_width=200, elem_id="seed-box"):
            with gr.Row(elem_id="seed-row"):
                seeded = _has_seeds(defaults)
                controls["seed"] = _number("seed", settings, scale=3, min_width=90, visible=seeded)
                dice = gr.Button(
                    tr("New seed"),
                    scale=0,
                    min_width=44,
                    elem_id="dice",
                    elem_classes="ma-dice",
                    visible=seeded,
                )
            controls["random_seed"] = _checkbox("random_seed", settings, visible=seeded)
    return controls, dice


def motion_settings(defaults: ModelDefaults) -> Controls:
    """What may be done to the clip before it animates."""
    settings = form_settings(defaults)
    controls: Controls = {}
    with gr.Row():
        for name in ("start", "end", "speed"):
            controls[name] = _number(name, settings, step=0.1 if name != "speed" else 0.25, min_width=90)
    with gr.Row(elem_classes="ma-choices"):
        for name in ("mirror", "boomerang", "fit_dancer"):
            controls[name] = _checkbox(name, settings, min_width=110)
    return controls


def people(defaults: ModelDefaults) -> gr.Radio:
    """Which of several people in an ordinary video dances."""
    return _radio("people", form_settings(defaults), show_label=False, container=False)


def advanced_settings(
    defaults: ModelDefaults, mask_panel: Callable[[Controls], None] = lambda controls: None
) -> Controls:
    """Everything that changes the result and that a first try can leave alone.

    Args:
        defaults: of the model.
        mask_panel: builds the mask's widgets among the others, and adds them to the controls made so far.
    """
    settings = form_settings(defaults)
    controls: Controls = {}
    with gr.Row():
        controls["num_inference_steps"] = _slider(
            "num_inference_steps", settings, elem_id="steps", visible=_has_steps(defaults)
        )
        controls["guidance_scale"] = _slider("guidance_scale", settings, step=0.1, elem_id="guidance")
    with gr.Row():
        sizes = [(choice.label, choice.name) for choice in size_choices(defaults)]
        controls["size"] = _dropdown("size", settings, choices=sizes, scale=2, min_width=220)
        for name in ("width", "height"):
            controls[name] = _number(name, settings, step=8, min_width=90)
    controls["fit"] = _radio("fit", settings)
    controls |= _background_settings(settings, mask_panel)
    with gr.Row():
        controls["reference_strength"] = _slider("reference_strength", settings, step=0.05)
        controls["controlnet_conditioning_scale"] = _slider(
            "controlnet_conditioning_scale", settings, step=0.05
        )
    controls |= _detail_settings(settings)
    with gr.Row():
        controls["start_from_photo"] = _slider("start_from_photo", settings)
        controls["seeds"] = _slider("seeds", settings, visible=_has_seeds(defaults))
    controls["lora"] = gr.Dropdown(
        lora.choices(),
        value=settings["lora"].default,
        multiselect=True,
        allow_custom_value=True,  # for a weight behind the name: style.safetensors:0.7
        **_layout("lora", {}),
    )
    # Files may have been added to the folder since the page was built.
    controls["lora"].focus(
        lambda: gr.update(choices=lora.choices()), None, controls["lora"], queue=False, **PRIVATE
    )
    with gr.Row(elem_classes="ma-choices"):
        for name in ("side_by_side", "sound", "credentials", "stream"):
            controls[name] = _checkbox(name, settings)
    return controls | _others("advanced", settings, controls)


def _detail_settings(settings: dict[str, Setting]) -> Controls:
    """Whether faces and hands are refined, and whose; the latter is hidden while they are not."""
    controls: Controls = {"detail": _radio("detail", settings)}
    controls["detail_who"] = gr.Textbox(
        settings["detail_who"].default, visible=False, **_layout("detail_who", {})
    )
    controls["detail"].change(
        lambda choice: gr.update(visible=choice != settings["detail"].default),
        controls["detail"],
        controls["detail_who"],
        queue=False,
        **PRIVATE,
    )
    return controls


def _background_settings(settings: dict[str, Setting], mask_panel: Callable[[Controls], None]) -> Controls:
    """What is behind the people; only what the choice needs is shown."""
    controls: Controls = {"background": _radio("background", settings)}
    controls["background_colour"] = gr.ColorPicker(
        settings["background_colour"].default, visible=False, **_layout("background_colour", {})
    )
    controls["background_file"] = gr.File(
        label=label_of("background_file"),
        file_types=["image", "video"],
        height=130,
        visible=False,
        elem_id="background_file",
    )
    with gr.Column(visible=False, elem_id="cut-out") as cut:
        with gr.Row():
            controls["mask_grow"] = _slider("mask_grow", settings)
            controls["mask_feather"] = _slider("mask_feather", settings, step=0.5)
        mask_panel(controls)
        controls["other_photos"] = gr.File(
            label=label_of("other_photos"),
            file_types=["image"],
            file_count="multiple",
            height=130,
            elem_id="other_photos",
        )
        controls["cast"] = gr.Textbox(settings["cast"].default, **_layout("cast", {}))
        # Who becomes whom is given by the photos' numbers, which another set of photos makes wrong.
        files = controls["other_photos"]
        for changed in (files.upload, files.delete, files.clear):
            changed(lambda: "", None, controls["cast"], queue=False, **PRIVATE)

    def shown(choice: str) -> list[Any]:
        needs = (choice == COLOUR, choice == FILE, choice not in IN_PHOTO)
        return [gr.update(visible=need) for need in needs]

    followers = [controls["background_colour"], controls["background_file"], cut]
    controls["background"].change(shown, controls["background"], followers, queue=False, **PRIVATE)
    return controls


def expert_settings(defaults: ModelDefaults) -> Controls:
    """What is best left alone."""
    settings = form_settings(defaults)
    controls: Controls = {}
    with gr.Row():
        for name in ("stride", "fps"):
            controls[name] = _number(name, settings, min_width=120)
        controls["scheduler"] = _dropdown("scheduler", settings, min_width=200)
    with gr.Row():
        controls["context_length"] = _slider("context_length", settings)
        controls["context_overlap"] = _slider("context_overlap", settings)
    controls["fusion"] = _radio("fusion", settings)
    with gr.Row(elem_classes="ma-choices"):
        for name in ("closed_loop", "context_offset", "check_motion"):
            controls[name] = _checkbox(name, settings)
    with gr.Row(visible=defaults.kind != "mini"):
        for name in ("prompt", "negative_prompt"):
            controls[name] = gr.Textbox(
                settings[name].default, label=label_of(name), info=explained(name), min_width=220
            )
    return controls | _others("expert", settings, controls)


def _others(level: str, settings: dict[str, Setting], placed: Controls) -> Controls:
    """A widget by its type for each setting of a level, "advanced" or "expert", that is not placed yet."""
    controls: Controls = {}
    for name, each in AnimationRequest.table().items():
        if each.page != level or name in placed:
            continue
        setting = settings[name]
        if isinstance(setting.default, bool):
            controls[name] = _checkbox(name, settings)
        elif setting.choices:
            controls[name] = _radio(name, settings)
        elif isinstance(setting.default, str):
            controls[name] = gr.Textbox(setting.default, **_layout(name, {}))
        elif math.isfinite(setting.high - setting.low):
            step = 1 if isinstance(setting.default, int) else (setting.high - setting.low) / 100
            controls[name] = _slider(name, settings, step=step)
        else:
            controls[name] = _number(name, settings)
    return controls


MODEL_SETTINGS = ("preset", "num_inference_steps", "guidance_scale", "size", "width", "height", "background")
"""Settings whose defaults differ from model to model."""


def _has_steps(defaults: ModelDefaults) -> bool:
    """Whether there is anything to choose: a model that learned for one step knows no others."""
    return defaults.num_inference_steps > 1


SEED_SETTINGS = ("seed", "random_seed", "seeds")


def _has_seeds(defaults: ModelDefaults) -> bool:
    """Whether a seed changes anything: not in a model that begins with the photo instead of noise."""
    return defaults.first_latents == "noise"


def own_settings(defaults: ModelDefaults) -> dict[str, Any]:
    """`MODEL_SETTINGS` as a model has them."""
    settings = form_settings(defaults)
    return {name: settings[name].default for name in MODEL_SETTINGS}


def model_ranges(defaults: ModelDefaults) -> dict[str, dict[str, Any]]:
    """What `MODEL_SETTINGS` may be for a model and whether there are seeds, as properties of the widgets."""
    sizes = [(choice.label, choice.name) for choice in size_choices(defaults)]
    most = form_settings(defaults)["guidance_scale"].high
    return {
        **dict.fromkeys(MODEL_SETTINGS, {}),
        **dict.fromkeys(SEED_SETTINGS, {"visible": _has_seeds(defaults)}),
        "preset": {"visible": _has_steps(defaults)},
        "num_inference_steps": {"visible": _has_steps(defaults)},
        "size": {"choices": sizes},
        "guidance_scale": {"maximum": most},
    }


def connect(controls: Controls, defaults: Callable[[], ModelDefaults]) -> None:
    """Attach the handlers of settings that follow others, such as the number of steps the quality.

    Args:
        controls: of the form.
        defaults: of the model in use.
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
        # "input" is raised by the visitor alone, "change" also when a size choice sets the sides.
        side.input(lambda: CUSTOM, None, controls["size"], queue=False, **PRIVATE)
    controls["preset"].input(
        lambda preset: steps_of(preset, defaults()),
        controls["preset"],
        controls["num_inference_steps"],
        queue=False,
        **PRIVATE,
    )


def remember(
    controls: Controls, opened: gr.events.Dependency, fillers: Mapping[str, Sequence[gr.components.Component]]
) -> None:
    """Let the browser keep what is in the form, and put it back when the page is opened again.

    Settings that it did not keep, or kept of another model, become those of the model that runs.

    Args:
        controls: of the form.
        opened: the event that tells which model runs when the page is opened; the browser's turn is after it.
        fillers: the widgets that each place fills in when it is used, by the place's id. A widget that was
            filled in so, or changed by hand, before the browser's turn comes keeps its value.
    """
    names, widgets = list(controls), list(controls.values())
    places = [
        [each.elem_id, *(place for place, filled in fillers.items() if each in filled)] for each in widgets
    ]
    given = ", ".join(map(json.dumps, (names, places, OLD_NAMES)))
    kept = f"({REMEMBER.read_text(encoding='utf-8')})({given})"
    keep = {"fn": None, "inputs": widgets, "js": f"(...now) => {kept}.keep(...now)", **PRIVATE}
    restored = opened.then(None, None, widgets, js=f"() => {kept}.restore()", **PRIVATE)
    restored.then(**keep)  # what was changed before that
    gr.on([each.change for each in widgets], **keep)


def _layout(name: str, layout: dict[str, Any]) -> dict[str, Any]:
    return {"label": label_of(name), "info": explained(name), "elem_id": name} | layout


def _slider(name: str, settings: dict[str, Setting], *, step: float = 1, **layout: Any) -> gr.Slider:
    setting = settings[name]
    slider = gr.Slider(
        setting.low,
        setting.high,
        value=setting.default,
        step=step,
        **_layout(name, {"min_width": 200} | layout),
    )
    # A number out of range is refused in a sentence when it is used; Gradio would raise an error of its own
    # while it is still being typed.
    slider.preprocess = as_typed
    return slider


def _number(name: str, settings: dict[str, Setting], *, step: float = 1, **layout: Any) -> gr.Number:
    setting = settings[name]
    whole = isinstance(setting.default, int)
    number = gr.Number(
        setting.default,
        minimum=setting.low if math.isfinite(setting.low) else None,
        maximum=setting.high if math.isfinite(setting.high) else None,
        step=step,
        precision=0 if whole else None,
        **_layout(name, layout),
    )
    number.preprocess = as_typed
    return number


def as_typed(value: Any) -> Any:
    """In place of the ``preprocess`` of number widgets, which raises an error for a number out of range."""
    return value


def _radio(name: str, settings: dict[str, Setting], *, reverse: bool = False, **layout: Any) -> gr.Radio:
    choices = [(choice_name(choice), choice) for choice in settings[name].choices]
    if reverse:
        choices.reverse()
    return gr.Radio(choices, value=settings[name].default, **_layout(name, layout))


def _dropdown(
    name: str, settings: dict[str, Setting], *, choices: list | None = None, **layout: Any
) -> gr.Dropdown:
    setting = settings[name]
    choices = choices or [(choice_name(choice), choice) for choice in setting.choices]
    return gr.Dropdown(choices, value=setting.default, **_layout(name, {"filterable": False} | layout))


def _checkbox(name: str, settings: dict[str, Setting], **layout: Any) -> gr.Checkbox:
    return gr.Checkbox(settings[name].default, label=label_of(name), container=False, elem_id=name, **layout)
