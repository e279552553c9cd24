"""What of a request can be refused before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path

from magicanimate.config import FITS, FUSIONS, PRESETS, WINDOW_MODES, AnimationRequest, MediaLimits
from magicanimate.errors import InputError
from magicanimate.files import shortened
from magicanimate.presets import Shortcuts

SIDE_MULTIPLE = 8
MOST_TIMES_OWN_AREA = 16
"""Pixels of a result by those that the checkpoint was trained at; beyond, nobody would be recognised."""
_SEEDS = (-(2**63), 2**64 - 1)
"""What torch takes."""
_LONGEST_STRIDE = 1_000_000
_FINITE = (
    *("guidance_scale", "start", "end", "fps", "controlnet_conditioning_scale", "reference_strength"),
    *("guidance_start", "guidance_stop"),
)
LARGEST_REFERENCE_STRENGTH = 2


def side_by_side_path(output: Path) -> Path:
    """Where the strip of an output goes: ``dance.mp4`` has ``dance_side_by_side.mp4``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_side_by_side{output.suffix}")


def check_request(request: AnimationRequest) -> None:
    """Refuse settings that cannot work before anything is loaded.

    Raises:
        InputError: one sentence with the setting, its value and what is allowed.
    """
    for name in ("width", "height"):
        side = getattr(request, name)
        if side is not None and (side < SIDE_MULTIPLE or side % SIDE_MULTIPLE):
            raise InputError(f"The {name} {side} is not a positive multiple of {SIDE_MULTIPLE}; change it.")
    for name in _FINITE:
        value = getattr(request, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"{name} is {value}; give a number.")
    for name, value in vars(request.limits).items():
        if not value > 0:  # also refuses "not a number"
            raise InputError(f"The limit {name} is {shortened(value)}; give a number above 0.")
    if not _SEEDS[0] <= request.seed <= _SEEDS[1]:
        raise InputError(f"The seed {shortened(request.seed)} is too large; choose 0 to {_SEEDS[1]}.")
    choosable = {"fit": FITS, "fusion": FUSIONS, "windows": WINDOW_MODES, "preset": PRESETS}
    for name, choices in choosable.items():
        if getattr(request, name) not in choices:
            raise InputError(f"{name} is {getattr(request, name)!r}; choose one of: {', '.join(choices)}.")
    try:
        Shortcuts.of(request.settings())
    except ValueError as error:
        raise InputError(f"The shortcuts cannot be used: {error}.") from error
    steps = request.num_inference_steps
    if steps is not None and not 1 <= steps <= 1000:
        raise InputError(f"The number of steps is {steps}; choose 1 to 1000.")
    if request.window_size < 1 or not 0 <= request.window_overlap < request.window_size:
        raise InputError(
            f"Windows of {request.window_size} frames cannot overlap by {request.window_overlap}; "
            "the overlap is at least 0 and less than the window."
        )
    strength = request.reference_strength
    if not 0 <= strength <= LARGEST_REFERENCE_STRENGTH:
        raise InputError(f"The reference strength is {strength}; choose 0 to {LARGEST_REFERENCE_STRENGTH}.")
    for name in ("stride", "window_stride"):
        stride = getattr(request, name)
        if not 1 <= stride <= _LONGEST_STRIDE:
            raise InputError(f"{name} is {shortened(stride)}; choose 1 to {_LONGEST_STRIDE}.")


def check_area(width: int, height: int, *, own: tuple[int, int]) -> None:
    """Refuse a result of far more pixels than a checkpoint was trained at.

    Args:
        width, height: of the result.
        own: width and height of the checkpoint.

    Raises:
        InputError: with the largest area.
    """
    most = MOST_TIMES_OWN_AREA * own[0] * own[1]
    if width * height > most:
        side = math.isqrt(most) // SIDE_MULTIPLE * SIDE_MULTIPLE
        raise InputError(
            f"{width}x{height} pixels are too many for this checkpoint, which was trained at "
            f"{own[0]}x{own[1]}; choose at most {most} in all, for instance {side}x{side}."
        )


def stretch_of_frames(motion: Path, first: int, count: int) -> tuple[float, float]:
    """Start and end in seconds of ``count`` frames of a clip, from its frame ``first`` on.

    Raises:
        InputError: the clip cannot be opened.
    """
    from magicanimate.media.motion import open_motion

    # The clip may be long: how much of it is used is checked when it is animated.
    limits = MediaLimits(max_seconds=float("inf"), max_frames=10**12, max_total_pixels=10**18)
    rate = open_motion(motion, limits=limits).rate
    return float(first / rate), float((first + count) / rate)


def check_outputs(request: AnimationRequest, *, config: Path | None = None) -> None:
    """Refuse what cannot or must not be written now rather than after minutes of work.

    Args:
        request: whose video, settings file and strip are meant.
        config: a further file that is read. It may be the settings file of the same result made before.

    Raises:
        InputError: see `magicanimate.media.outputs.check_output`.
    """
    from magicanimate.media.outputs import check_file_output, check_output, is_our_json
    from magicanimate.media.settings_file import settings_path

    inputs = [request.photo, request.motion, request.keypoints]
    if config is not None and not is_our_json(config):
        inputs.append(config)
    how = {"inputs": inputs, "overwrite": request.overwrite}
    check_output(request.output, **how)
    check_file_output(settings_path(request.output), is_our_json, **how)
    if request.side_by_side:
        check_output(side_by_side_path(request.output), **how)
