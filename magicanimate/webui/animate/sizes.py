"""Sizes of results to choose from: the aspects people want, at about as many pixels as a checkpoint knows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from magicanimate.animator import ModelDefaults
from magicanimate.config import SIDE_MULTIPLE

OWN, CUSTOM = "checkpoint", "custom"
LIKE_FILE = {"photo": "Shape of the photo", "motion": "Shape of the video"}
"""Choices whose aspect is a file's, by the name of the form's value that holds it."""

_ASPECTS = {
    "square": (1, 1),
    "portrait 3:4": (3, 4),
    "portrait 2:3": (2, 3),
    "portrait 9:16": (9, 16),
    "landscape 4:3": (4, 3),
    "landscape 3:2": (3, 2),
    "landscape 16:9": (16, 9),
}

_FLATTEST = 3.0
"""Longer side by shorter; no file makes a result flatter than this."""


@dataclass(frozen=True)
class SizeChoice:
    """A size that can be chosen.

    Attributes:
        name: as it is saved.
        label: as it is shown.
        size: width and height in pixels, ``None`` where they depend on a file or the user.
    """

    name: str
    label: str
    size: tuple[int, int] | None


def size_choices(defaults: ModelDefaults) -> list[SizeChoice]:
    """The choices for a checkpoint."""
    own = (defaults.width, defaults.height)
    choices = [SizeChoice(OWN, f"The model's own, {own[0]} × {own[1]}", own)]
    for name, (across, down) in _ASPECTS.items():
        size = nearest_size(across / down, defaults)
        if size != own:
            choices.append(SizeChoice(name, f"{name.capitalize()}, {size[0]} × {size[1]}", size))
    choices += [SizeChoice(name, label, None) for name, label in LIKE_FILE.items()]
    return [*choices, SizeChoice(CUSTOM, "As typed", None)]


def nearest_size(aspect: float, defaults: ModelDefaults) -> tuple[int, int]:
    """Width and height of about an aspect (width by height) and about the checkpoint's number of pixels.

    Both are multiples of a side that the network's levels divide well: 64 of 512 pixels, 16 of 128.
    """
    shorter = min(defaults.width, defaults.height)
    step = max(SIDE_MULTIPLE, 2 ** int(math.log2(shorter / SIDE_MULTIPLE)))
    aspect = min(max(aspect, 1 / _FLATTEST), _FLATTEST)
    area = defaults.width * defaults.height
    sides = range(step, 4 * max(defaults.width, defaults.height), step)

    def distance(size: tuple[int, int]) -> float:
        width, height = size
        return 2 * abs(math.log(width / height / aspect)) + abs(math.log(width * height / area))

    return min(((width, height) for width in sides for height in sides), key=distance)


def size_of(name: str, defaults: ModelDefaults, files: dict[str, str | None]) -> tuple[int, int] | None:
    """Width and height that a choice means; ``None`` for what only the user can say.

    Args:
        name: of the choice.
        defaults: of the checkpoint.
        files: the photo and the motion clip, where there are.

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
