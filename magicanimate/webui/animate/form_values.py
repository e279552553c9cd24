"""The settings of the form: defaults and ranges, and how their values become requests.

A form's values are a dictionary by the names of `form_settings`, plus the files: "photo", "motion" and, for
some models, "keypoints". They can be saved, read back from a result, and turned into requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from magicanimate.acceleration.options import completed
from magicanimate.animator import ModelDefaults
from magicanimate.config import (
    CLIP_BACKGROUND,
    IN_PHOTO,
    PHOTO_BACKGROUND,
    SIDE_MULTIPLE,
    STILL_BACKGROUND,
    TRANSPARENT,
    AnimationRequest,
    Preset,
    multiples_beside,
    with_current_names,
)
from magicanimate.errors import InputError
from magicanimate.files import file_name, new_output
from magicanimate.lora import FEW_STEPS_SCHEDULER, by_name, in_folder
from magicanimate.request_checks import is_colour
from magicanimate.webui.texts import label_of, tr

LARGEST_SEED = int(AnimationRequest.table()["seed"].span[1])
MOST_SEEDS = 8
OWN_SCHEDULER = "default"
SCHEDULERS = (
    OWN_SCHEDULER,
    "DDIMScheduler",
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    FEW_STEPS_SCHEDULER,
)
FILES = ("photo", "motion", "keypoints", "driving_video", "mask")
PHOTOS = "other_photos"
"""Name of the value that is a list of files."""
COLOUR, FILE = "colour", "file"
BACKGROUNDS = (STILL_BACKGROUND, PHOTO_BACKGROUND, CLIP_BACKGROUND, COLOUR, FILE, TRANSPARENT)
"""What may be behind the people; the colour and the file are settings of their own."""
MOTION_STEPS = ("people", "fit_dancer", "speed", "mirror", "boomerang")
"""Settings of the steps that the clip goes through before it animates, see `densepose_tools.motion_steps`."""

PEOPLE = ("largest", "all", "point")
_ZERO_MEANS_NONE = ("end", "fps")


@dataclass(frozen=True)
class Setting:
    """One setting of the form.

    Attributes:
        default: has the setting's type; a list is one of any number of texts.
        low, high: bounds of a number, both included.
        choices: that a text is one of; any text if empty.
        multiple: that a whole number is a multiple of.
    """

    default: bool | int | float | str | list[str]
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    multiple: int = 1

    def trouble(self, value: Any, name: str) -> str | None:
        """A sentence on what is wrong with a value of this setting, called ``name``, or ``None``."""
        kind: Any = type(self.default)
        if kind is list:
            texts = isinstance(value, (tuple, list)) and all(isinstance(each, str) for each in value)
            return None if texts else tr(_WANTED[list], name=name)
        numeric = kind in (int, float)
        if isinstance(value, bool) != (kind is bool) or not isinstance(
            value, (int, float) if numeric else kind
        ):
            return tr(_WANTED[kind], name=name)
        if numeric and not self.low <= value <= self.high:  # also refuses "not a number"
            text = "{name} must be between {low} and {high}."
            return tr(text, name=name, low=f"{self.low:g}", high=f"{self.high:g}")
        if self.multiple > 1 and value % self.multiple:
            near = multiples_beside(value, self.multiple, low=self.low, high=self.high)
            text = "{name} must be a multiple of {multiple}. Try {near}."
            return tr(text, name=name, multiple=self.multiple, near=near)
        if kind is int and value != int(value):
            return tr(_WANTED[int], name=name)
        if self.choices and value not in self.choices:
            text = "{name} must be one of: {choices}."
            return tr(text, name=name, choices=", ".join(self.choices))
        return None


_WANTED = {
    bool: "{name} must be yes or no.",
    int: "{name} must be a whole number.",
    float: "{name} must be a number.",
    str: "{name} must be a text.",
    list: "{name} must be a list of names.",
}


@dataclass(frozen=True)
class ReadBack:
    """Settings from elsewhere, checked for this form.

    Attributes:
        values: that are valid, by name.
        notes: a sentence on each of the others.
    """

    values: dict[str, Any]
    notes: tuple[str, ...]


def form_settings(defaults: ModelDefaults) -> dict[str, Setting]:
    """Every setting of the form, with the model's own defaults where it has some.

    Settings of an animation are declared in `AnimationRequest`; only those of the page are declared here.
    """
    known, types = AnimationRequest.table(), AnimationRequest.types()
    blank = AnimationRequest(Path(), Path(), Path())
    own = {
        "num_inference_steps": defaults.num_inference_steps,
        "guidance_scale": float(defaults.guidance_scale),
        "width": defaults.width,
        "height": defaults.height,
        "fusion": defaults.fusion or "midup",
        "scheduler": OWN_SCHEDULER,
        "side_by_side": True,
    }
    settings = {}
    for name, each in known.items():
        if not each.page:
            continue
        default = own.get(name, getattr(blank, name))
        default = list(default) if isinstance(default, tuple) else default
        low, high = each.span or (each.low, each.high)
        if types[name] not in (int, float):
            low = high = None
        settings[name] = Setting(
            types[name]() if default is None else default, low, high, each.choices, each.multiple
        )
    # At a guidance scale that suits one model, colours of another that was distilled for none burn out.
    most = 2 * max(1, defaults.guidance_scale)
    return settings | {
        "guidance_scale": replace(settings["guidance_scale"], low=1, high=most),
        "scheduler": replace(settings["scheduler"], choices=SCHEDULERS),
        "background": Setting(defaults.background, choices=BACKGROUNDS),
        "background_colour": Setting("#808080"),
        "random_seed": Setting(False),
        "seeds": Setting(1, 1, MOST_SEEDS),
        "size": Setting(OWN, choices=tuple(choice.name for choice in size_choices(defaults))),
        "people": Setting("largest", choices=PEOPLE),
        "fit_dancer": Setting(False),
        "speed": Setting(1.0, 0.25, 4),
        "mirror": Setting(False),
        "boomerang": Setting(False),
    }


def check_values(values: Mapping[str, Any], defaults: ModelDefaults) -> None:
    """Check the values of the form.

    Raises:
        InputError: one is invalid; the sentence names the first such setting by its label.
    """
    for name, setting in form_settings(defaults).items():
        value = values.get(name)
        if value is not None and (trouble := setting.trouble(value, label_of(name))):
            raise InputError(trouble)


def steps_of(preset: Preset, defaults: ModelDefaults) -> int:
    """Denoising steps of a quality preset for a model."""
    request = AnimationRequest(Path(), Path(), Path(), preset=preset)
    return completed(request, steps=defaults.num_inference_steps).num_inference_steps


def read_back(given: Mapping[str, Any], settings: Mapping[str, Setting]) -> ReadBack:
    """Take the valid settings from ``given``.

    Args:
        given: values by name, perhaps of another version.
        settings: from `form_settings`.
    """
    values, notes = {}, []
    for name, value in with_current_names(given).items():
        setting = settings.get(name)
        if setting is None:
            trouble = tr("This version has no such setting.")
        else:
            trouble = setting.trouble(value, label_of(name))
        if trouble is None:
            values[name] = type(setting.default)(value)
        else:
            left_out = tr("{name} ({value}) was left out.", name=label_of(name), value=str(value)[:40])
            notes.append(f"{left_out} {trouble}")
    return ReadBack(values, tuple(notes))


def of_result(recorded: Mapping[str, Any], settings: Mapping[str, Setting]) -> ReadBack:
    """The form's values that would make a result again, without its files.

    Args:
        recorded: the JSON beside a result, see `AnimationRequest.settings`, or what a job holds, which also
            tells of the steps before.
        settings: from `form_settings`.
    """
    recorded = with_current_names(recorded)
    blank = {"end": 0.0, "fps": 0.0, "scheduler": OWN_SCHEDULER}
    given: dict[str, Any] = {
        name: blank.get(name, settings[name].default) if recorded[name] is None else recorded[name]
        for name in (*AnimationRequest.names(), *MOTION_STEPS)
        if name in settings and name in recorded
    }
    background, notes = given.get("background"), tuple[str, ...]()
    if background not in (*IN_PHOTO, CLIP_BACKGROUND, TRANSPARENT):
        if is_colour(str(background)):
            given |= {"background": COLOUR, "background_colour": str(background)}
        else:
            given["background"] = FILE
            notes = (tr("Choose the background {name} again.", name=file_name(background)),)
    if given.get("lora"):
        given["lora"], gone = by_name(given["lora"])
        notes += gone
    found = read_back(given, settings)
    found = replace(found, notes=found.notes + notes)
    fixed: dict[str, Any] = {"random_seed": False, "seeds": 1}
    sides = ("width", "height")
    if all(side in found.values for side in sides):
        own = all(found.values[side] == settings[side].default for side in sides)
        fixed["size"] = OWN if own else CUSTOM
    return replace(found, values=found.values | fixed)


def motion_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """The steps that the clip goes through before it animates, JSON-ready.

    Args:
        values: of the form; "point" is column, row and second of the click on a person.
    """
    steps = {name: values[name] for name in MOTION_STEPS if name in values}
    steps |= {"convert": bool(values.get("check_motion", True))}
    if several_photos(values) and steps.get("people") == "largest":
        steps["people"] = "all"
    if steps.get("people") == "point":
        if not values.get("point"):
            raise InputError(tr("Click on the person to follow, in the picture below the video."))
        steps["point"] = list(values["point"])
    return steps


def several_photos(values: Mapping[str, Any]) -> bool:
    """Whether several dancers become the people of several photos, which needs a new background."""
    return bool(values.get(PHOTOS)) and values.get("background") not in IN_PHOTO


def request_of(values: Mapping[str, Any], output: Path) -> AnimationRequest:
    """The request that the form's values describe.

    Raises:
        InputError: photo or clip is missing.
    """
    if not values["photo"]:
        raise InputError(tr("Add a photo, or choose an example."))
    if not values["motion"]:
        raise InputError(tr("Add a dance video, or choose an example."))
    given = {
        name: value
        for name, value in values.items()
        if name in AnimationRequest.names() and value not in (None, OWN_SCHEDULER)
    }
    for name in _ZERO_MEANS_NONE:
        if given.get(name) == 0:
            del given[name]
    if given.get("background") in IN_PHOTO:
        given.pop("mask", None)
    if given.get("background") == CLIP_BACKGROUND:  # the clip as it was before its conversion
        given["driving_video"] = values.get("driving_video") or values["motion"]
    elif given.get("background") == COLOUR:
        given["background"] = colour = str(values.get("background_colour") or "")
        if not is_colour(colour):
            text = "“{value}” is no colour; write a name such as white, or #2060a0."
            raise InputError(tr(text, value=colour[:40]))
    elif given.get("background") == FILE:
        if not values.get("background_file"):
            text = "Add a picture or video for the background, or choose another background."
            raise InputError(tr(text))
        given["background"] = str(values["background_file"])
    elif given.get("background") == TRANSPARENT:
        output = output.with_suffix(".webm")
    given["lora"] = in_folder(given.get("lora") or ())
    paths: dict[str, Any] = {name: Path(given[name]) for name in FILES if name in given}
    paths |= {"output": output, PHOTOS: ()}
    if several_photos(values):
        paths[PHOTOS] = tuple(map(Path, values[PHOTOS]))
    else:
        given.pop("cast", None)
    return AnimationRequest(**{**given, **paths, "seed": int(values["seed"]), "preview_every": 1})


def requests_of(values: Mapping[str, Any], folder: Path) -> list[AnimationRequest]:
    """A request for each seed (seed, seed + 1, ...), with outputs in ``folder`` whose names are free.

    Raises:
        InputError: photo or clip is missing.
    """
    output = new_output(folder, Path(values["photo"] or ""), Path(values["motion"] or ""))
    first = request_of(values, output)
    count = int(values.get("seeds") or 1)
    if count == 1:
        return [first]
    seeds = [(first.seed + i) % (LARGEST_SEED + 1) for i in range(count)]
    return [replace(first, seed=seed, output=output.with_stem(f"{output.stem}_seed{seed}")) for seed in seeds]


OWN, CUSTOM = "checkpoint", "custom"
LIKE_FILE = {"photo": "Shape of the photo", "motion": "Shape of the video"}
"""Size choices with the aspect ratio of a file, by the name of that file's value."""

_ASPECTS = {
    "square": (1, 1),
    "portrait 3:4": (3, 4),
    "portrait 2:3": (2, 3),
    "portrait 9:16": (9, 16),
    "landscape 4:3": (4, 3),
    "landscape 3:2": (3, 2),
    "landscape 16:9": (16, 9),
}

_LARGEST_ASPECT = 3.0
"""Longer side divided by shorter, at most, whatever the file's aspect ratio is."""


@dataclass(frozen=True)
class SizeChoice:
    """A size that can be chosen.

    Attributes:
        name: as it is saved.
        label: as it is shown.
        size: width and height in pixels; ``None`` if they depend on a file or are typed in.
    """

    name: str
    label: str
    size: tuple[int, int] | None


def size_choices(defaults: ModelDefaults) -> list[SizeChoice]:
    """The size choices for a model."""
    own = (defaults.width, defaults.height)
    choices = [SizeChoice(OWN, tr("The model's own, {size}", size=f"{own[0]} × {own[1]}"), own)]
    for name, (across, down) in _ASPECTS.items():
        size = nearest_size(across / down, defaults)
        if size != own:
            choices.append(SizeChoice(name, f"{tr(name.capitalize())}, {size[0]} × {size[1]}", size))
    choices += [SizeChoice(name, tr(label), None) for name, label in LIKE_FILE.items()]
    return [*choices, SizeChoice(CUSTOM, tr("As typed"), None)]


def nearest_size(aspect: float, defaults: ModelDefaults) -> tuple[int, int]:
    """Width and height with about an aspect ratio (width / height) and about the model's number of pixels.

    Both are multiples of a number that the UNet's levels divide well: 64 for a model of 512 pixels, 16 for
    128.
    """
    shorter = min(defaults.width, defaults.height)
    step = max(SIDE_MULTIPLE, 2 ** int(math.log2(shorter / SIDE_MULTIPLE)))
    aspect = min(max(aspect, 1 / _LARGEST_ASPECT), _LARGEST_ASPECT)
    area = defaults.width * defaults.height
    sides = range(step, 4 * max(defaults.width, defaults.height), step)

    def distance(size: tuple[int, int]) -> float:
        width, height = size
        return 2 * abs(math.log(width / height / aspect)) + abs(math.log(width * height / area))

    return min(((width, height) for width in sides for height in sides), key=distance)


def size_of(name: str, defaults: ModelDefaults, files: dict[str, str | None]) -> tuple[int, int] | None:
    """Width and height of a choice; ``None`` if they are typed in or the file is missing.

    Args:
        name: of the choice.
        defaults: of the model.
        files: the photo and the motion clip, if there are any.

    Raises:
        InputError: the file cannot be read.
    """
    if name in LIKE_FILE:
        file = files.get(name)
        return nearest_size(_aspect(name, Path(file)), defaults) if file else None
    return next((choice.size for choice in size_choices(defaults) if choice.name == name), None)


def _aspect(kind: str, file: Path) -> float:
    if kind == "motion":
        from magicanimate.media.motion import open_motion

        clip = open_motion(file)
        return clip.width / clip.height
    from magicanimate.media.photo import load_photo

    photo = load_photo(file)
    return photo.shape[1] / photo.shape[0]
