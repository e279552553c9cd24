"""The settings of a result again: read out of the result itself or the JSON beside it.

What is inside a result names photo and clip without their folders. Where they are says the JSON in the folder
of results, if that very result still lies there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, file_name, read_json
from magicanimate.webui.animate.form_values import FILES, PHOTOS
from magicanimate.webui.gallery.export import EXPORTED_FROM
from magicanimate.webui.gallery.results import LARGEST_SETTINGS, StoredResult
from magicanimate.webui.texts import tr

SUFFIXES = (".json", ".mp4", ".webm", ".gif", ".png")


@dataclass(frozen=True)
class Reused:
    """What a result was made with.

    Attributes:
        settings: by the names of `AnimationRequest`, and what else was recorded.
        files: by the names of `FILES`, those that are still there and may be used.
        other_photos: likewise.
        missing: sentences that name those that are not.
    """

    settings: Mapping[str, Any]
    files: Mapping[str, Path]
    missing: tuple[str, ...]
    other_photos: tuple[Path, ...] = ()


def read_settings(file: Path) -> dict[str, Any]:
    """Settings of a result file: mp4, webm, gif, a png frame, or the JSON.

    Raises:
        InputError: it has none.
    """
    if file.suffix.lower() == ".json":
        settings = _from_json(file)
    elif file.suffix.lower() in SUFFIXES:
        from magicanimate.media.outputs import read_metadata

        settings = read_metadata(file)
    else:
        raise InputError(
            f"{file.name} is no result; drop an {', '.join(SUFFIXES[1:])} or {SUFFIXES[0]} file."
        )
    if not isinstance(settings, dict) or not {"photo", "motion", "seed"} <= settings.keys():
        raise InputError(
            f"{file.name} has no settings of MagicAnimate inside; drop a result that was made here."
        )
    return settings


def names_files_only(file: Path, settings: Mapping[str, Any]) -> bool:
    """Whether settings that `read_settings` found come out of a copy, which says nothing of folders."""
    return file.suffix.lower() != ".json" or EXPORTED_FROM in settings


def original(settings: Mapping[str, Any], results: Iterable[StoredResult]) -> Mapping[str, Any] | None:
    """The settings beside the result that others were copied from, with the whole paths of its files.

    Args:
        settings: as `read_settings` found them anywhere; they may come from anybody.
        results: those that it may be.

    Returns:
        ``None`` if it is none of them, or if several that differ in their files would fit.
    """
    from magicanimate.media.outputs import names_only

    of_the_file = (EXPORTED_FROM, "program")  # which may have been written by another version
    wanted = {name: value for name, value in names_only(settings).items() if name not in of_the_file}
    found = [each.settings for each in results if wanted.items() <= names_only(each.settings).items()]
    files = {(*(each.get(name) for name in FILES), *(each.get(PHOTOS) or ())) for each in found}
    return found[0] if len(files) == 1 else None


def reuse(settings: Mapping[str, Any], folders: Sequence[Path] | None) -> Reused:
    """Settings, with the photo and the clip that they name.

    Args:
        settings: of a result; they may come from anybody.
        folders: those that photo and clip may lie in; nowhere when empty, anywhere when ``None``.
    """
    found: dict[str, Path] = {}
    missing = []
    for name in FILES:
        named = settings.get(name)
        if name not in ("photo", "motion") and named is None:
            continue
        path = _within(Path(named), folders) if isinstance(named, str) and named else None
        called = {"what": tr(_CALLED[name]), "name": file_name(named) if named else ""}
        if path is None:
            missing.append(tr("{what} {name} is not there any more; choose it again.", **called))
        elif path.is_file():
            found[name] = path
        else:
            missing.append(tr("{what} {name} is a folder of frames; choose a video.", **called))
    others = []
    for named in settings.get(PHOTOS) or ():
        path = _within(Path(named), folders) if isinstance(named, str) and named else None
        if path is not None and path.is_file():
            others.append(path)
        else:
            text = "{what} {name} is not there any more; choose it again."
            missing.append(tr(text, what=tr(_CALLED[PHOTOS]), name=file_name(str(named))))
    if "driving_video" in found:  # the motion clip was made of it and will be again
        found["motion"] = found.pop("driving_video")
    return Reused(settings, found, tuple(missing), tuple(others))


_CALLED = {
    "photo": "The photo",
    "motion": "The dance video",
    "keypoints": "The keypoint clip",
    "driving_video": "The ordinary dance video",
    "mask": "The mask",
    "other_photos": "The photo of another dancer",
}


def _from_json(file: Path) -> Any:
    try:
        return read_json(file, most=LARGEST_SETTINGS)
    except Unreadable as error:
        raise InputError(
            f"{file.name} cannot be read ({error.reason}); drop the settings of a result."
        ) from error


def _within(path: Path, folders: Sequence[Path] | None) -> Path | None:
    """The real path of a file, or folder of frames, that lies in one of the folders."""
    try:
        real = path.resolve(strict=True)
    except (OSError, ValueError):
        return None
    if folders is None or any(real.is_relative_to(folder.resolve()) for folder in folders):
        return real
    return None
