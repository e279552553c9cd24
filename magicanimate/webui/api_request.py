"""Requests from programs: a photo, a clip, and settings by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicanimate.animator import ModelDefaults
from magicanimate.config import AnimationRequest
from magicanimate.errors import InputError
from magicanimate.webui.animate.form_values import MOTION_STEPS, form_settings, request_of

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
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"There is no setting {name!r}; choose from: {', '.join(known)}.")
        if trouble := known[name].trouble(value):
            raise InputError(f"The setting {name} is {str(value)[:40]!r}, which {trouble}.")
    return request_of({"photo": photo, "motion": motion, "seed": known["seed"].default, **given}, output)
