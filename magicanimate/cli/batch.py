"""Read jobs from a YAML file, with this program's setting names or the published program's keys."""

from __future__ import annotations

import os
import random
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from magicanimate.config import AnimationRequest, MediaLimits, with_current_names
from magicanimate.errors import InputError
from magicanimate.files import Unreadable, read_yaml, shortened
from magicanimate.lora import parse
from magicanimate.request_checks import stretch_of_frames

# Published key -> our setting.
ALIASES = {
    "source_image": "photo",
    "video_path": "motion",
    "steps": "num_inference_steps",
    "fusion_blocks": "fusion",
}
# Published keys that change nothing at these values; with others they are reported as ignored.
_NO_EFFECT: dict[str, Any] = {
    "S": 1,
    "I": 0,
    "clip": 0,
    "video_type": "condition",
    "invert_video": False,
    "save_individual_videos": False,
}
# Published keys that name the files of the model.
_MODEL = (
    *("pretrained_model_path", "pretrained_vae_path", "pretrained_unet_path"),
    *("pretrained_controlnet_path", "pretrained_appearance_encoder_path", "motion_module"),
    "inference_config",
)
# What this program's settings files record about a run; such a file can be run again.
_RECORDED = (
    *("program", "ai_generated", "model", "checkpoint", "checkpoint_digest", "device", "dtype"),
    *("num_frames", "output_fps", "memory", "seconds"),
)
_KNOWN = {"savename", "offset", "max_length", "L", *_MODEL, *_RECORDED}  # keys that are used elsewhere
_INPUTS = ("photo", "motion", "keypoints", "driving_video", "mask")
_PER_JOB = ("photo", "motion", "keypoints", "seed")
_MOST_JOBS = 10_000
_RANDOM_SEED = -1  # as the published files write it


@dataclass(frozen=True)
class Batch:
    """What a YAML file asks for."""

    # For each animation the given settings, by the names of `AnimationRequest`.
    jobs: tuple[dict[str, Any], ...]
    ignored: tuple[str, ...]  # keys that mean nothing here
    model_keys: tuple[str, ...]  # keys that name a model's files, which ``--model`` does here
    missing: tuple[str, ...]  # files that do not exist, with the places where they were searched
    name: str | None  # of the folder of results, if the file gives one
    # Folder and digest of the checkpoint that made the result of which the file is, if it is.
    checkpoint: tuple[str, str] | None = None


def load_batch(path: Path, overrides: Mapping[str, Any] | None = None) -> Batch:
    """Read the jobs of a YAML file; ``overrides`` win over what it says.

    Photos, clips and seeds may be single values or lists; single ones serve every job. Relative paths are
    looked for from the working folder, then from the file's own and the two above that.

    Raises:
        InputError: it cannot be read, or a value does not suit its key.
    """
    raw = _read(path)
    settings: dict[str, Any] = {}
    ignored: list[str] = []
    # Published files repeat the number of steps under another name, which then changes nothing.
    steps = raw.get("steps", raw.get("num_inference_steps"))
    first, count = _frames(path, raw)
    for key, value in raw.items():
        name = ALIASES.get(key, key)
        ((name, value),) = with_current_names({name: value}).items()
        if key == "size":
            settings["width"], settings["height"] = _size(path, value)
        elif key == "limits":
            settings["limits"] = _limits(path, value)
        elif name in AnimationRequest.names():
            settings[name] = _convert(path, key, name, value)
        elif key == "offset" and count is None and first:
            ignored.append("offset (without max_length)")
        elif key not in _KNOWN and not _changes_nothing(key, value, steps):
            ignored.append(key)
    settings |= overrides or {}
    jobs = _jobs(path, settings)
    # Frames need the rate of the clip, seconds do not; what is given in seconds wins.
    if count is not None and not {"start", "end"} & set(settings):
        for job in jobs:
            job["start"], job["end"] = stretch_of_frames(job["motion"], first, count)
    return Batch(
        tuple(jobs),
        tuple(ignored),
        tuple(key for key in _MODEL if raw.get(key)),
        tuple(_missing(path, jobs)),
        _folder_name(path, raw.get("savename")),
        (str(raw["checkpoint"]), str(raw["checkpoint_digest"])) if "checkpoint_digest" in raw else None,
    )


def _folder_name(path: Path, name: Any) -> str | None:
    """The name of the folder of results inside of ``outputs``."""
    if not name:
        return None
    if not isinstance(name, (str, int)) or Path(str(name)).name != str(name) or str(name) in (".", ".."):
        raise InputError(
            f"savename in {path} is {shortened(name)}, which is no name of a folder; give a name, or the "
            "whole path with -o."
        )
    return str(name)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except Unreadable as error:
        raise InputError(f"The settings file {path} cannot be read ({error.reason}); mend it.") from error
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise InputError(f"The settings file {path} has no `key: value` lines; write for example `seed: 1`.")
    return raw


def _frames(path: Path, raw: Mapping[str, Any]) -> tuple[int, int | None]:
    """The published ``offset`` and ``max_length``, frames of the clip: those from ``offset`` on are used.

    As in the published program ``offset`` counts only together with ``max_length``. (``L``, to a multiple of
    which that program fills up the clip, has nothing to do here: windows end where the clip ends.)
    """
    first = _one(path, "offset", raw.get("offset") or 0, int)
    count = _one(path, "max_length", raw.get("max_length"), int | None)
    if first < 0 or (count is not None and count < 1):
        raise InputError(f"offset in {path} must be 0 or more, and max_length 1 or more.")
    return first, count


def _changes_nothing(key: str, value: Any, steps: Any) -> bool:
    if key == "num_actual_inference_steps":
        return value in (None, steps)
    return key in _NO_EFFECT and value == _NO_EFFECT[key]


def _size(path: Path, value: Any) -> tuple[int, int]:
    """``512``, ``[384, 512]`` or ``384x512`` -> (width, height)."""
    if isinstance(value, str):
        value = value.lower().split("x")
    values = value if isinstance(value, list) else [value]
    if len(values) in (1, 2):
        width, height = values[0], values[-1]
        return _one(path, "size", width, int), _one(path, "size", height, int)
    raise InputError(f"size in {path} is {shortened(value)}; write 512 or 384x512.")


def _limits(path: Path, value: Any) -> MediaLimits:
    hints = get_type_hints(MediaLimits)
    if not isinstance(value, dict) or not set(value) <= set(hints):
        raise InputError(f"limits in {path} must be `name: number` lines with {', '.join(hints)}.")
    return MediaLimits(
        **{name: _one(path, f"limits.{name}", each, hints[name]) for name, each in value.items()}
    )


def _convert(path: Path, key: str, name: str, value: Any) -> Any:
    hint = get_type_hints(AnimationRequest)[name]
    if get_origin(hint) is tuple:  # files; LoRAs perhaps with a weight behind them
        items = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
        if get_args(hint)[0] is Path:
            return tuple(_one(path, key, each, Path) for each in items)
        return tuple(_found_lora(path, _one(path, key, each, str)) for each in items)
    if name in _PER_JOB and isinstance(value, list):
        return [_one(path, key, each, hint) for each in value]
    return _one(path, key, value, hint)


def _one(path: Path, key: str, value: Any, hint: Any) -> Any:
    """``value`` as the type of ``hint``; an ``InputError`` where it is of another kind."""
    kinds = list(get_args(hint)) if get_origin(hint) in (types.UnionType, Union) else [hint]
    if value is None and type(None) in kinds:
        return None
    kind = kinds[0]
    if get_args(kind):  # a Literal
        if value in get_args(kind):
            return value
        raise InputError(
            f"{key} in {path} is {shortened(value)}; choose one of: {', '.join(get_args(kind))}."
        )
    # In Python a bool is an int, but `seed: true` in a file is a mistake.
    if kind is bool or isinstance(value, bool):
        fits = isinstance(value, bool) and kind is bool
    elif kind is float:
        fits = isinstance(value, (int, float, str)) and _is_number(value)
    elif kind is int:
        fits = isinstance(value, (int, str)) and _is_number(value, int)
    else:
        fits = isinstance(value, str) or (kind is Path and isinstance(value, int))
    if not fits:
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
        raise InputError(f"{key} in {path} is {shortened(value)}, but {wanted} is needed.")
    return _found(path, Path(str(value))) if kind is Path else kind(value)


def _is_number(value: Any, kind: type = float) -> bool:
    try:
        kind(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _found_lora(path: Path, text: str) -> str:
    lora = parse(text)
    return f"{_found(path, lora.file)}:{lora.weight:g}"


def _found(path: Path, named: Path) -> Path:
    try:
        # The shell expands "~" on the command line, but nobody does in a file.
        named = named.expanduser()
    except RuntimeError as error:  # "~somebody" who has no home here
        raise InputError(f"{path} names {shortened(str(named))}, whose folder is not known here.") from error
    return next((place for place in _places(path, named) if os.path.exists(place)), named)


def _places(path: Path, named: Path) -> list[Path]:
    """Places where a file that the settings file ``path`` names may be."""
    # Published files are two folders below the top of their repository, from which they name paths.
    return [folder / named for folder in (Path.cwd(), *path.absolute().parents[:3])]


def _missing(path: Path, jobs: list[dict[str, Any]]) -> Iterator[str]:
    # Each file once, however many jobs use it.
    inputs = dict.fromkeys(job[name] for job in jobs for name in _INPUTS if job.get(name) is not None)
    inputs |= dict.fromkeys(photo for job in jobs for photo in job.get("other_photos") or ())
    for named in inputs:
        # An absolute path has one place only, which the error of the animation itself names.
        if not (named.is_absolute() or os.path.exists(named)):
            folders = dict.fromkeys(str(place.parent) for place in _places(path, named))
            yield f"{shortened(str(named))} is in none of {', '.join(folders)}"


def _jobs(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary for each animation, lists taken in step."""
    for name, key in (("photo", "source_image"), ("motion", "video_path")):
        if settings.get(name) in (None, []):
            raise InputError(f"{path} names no {name}; add `{name}: FILE` (or `{key}`).")
    # Lists are taken in step: the first photo with the first clip, and so on.
    columns = {name: settings[name] for name in _PER_JOB if isinstance(settings.get(name), list)}
    lengths = {name: len(values) for name, values in columns.items() if len(values) != 1}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise InputError(
            f"The lists in {path} do not match ({counts}); give as many of each, or one for all."
        )
    count = max(lengths.values(), default=1)
    if count > _MOST_JOBS:
        raise InputError(f"{path} asks for {count} animations; {_MOST_JOBS} are the most at a time.")
    jobs = []
    for i in range(count):
        # A copy for each job, since the lists are replaced by their single values.
        job = dict(settings)
        for name, values in columns.items():
            job[name] = values[i if len(values) > 1 else 0]
        if job.get("seed") == _RANDOM_SEED:
            # Drawn now, so that the settings of the result name the seed that was used.
            job["seed"] = random.randrange(2**31)
        jobs.append(job)
    return jobs
