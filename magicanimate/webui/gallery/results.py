"""One result on disk: the video, the settings beside it, and what else belongs to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError
from magicanimate.files import Unreadable, file_name, read_json
from magicanimate.request_checks import side_by_side_path

EXPORT_SUFFIXES = (".mp4", ".webm", ".gif", "_frames.zip")
"""What a result may have beside it under its own name."""

_STAMP = re.compile(r"(\d{8}-\d{6})_")
LARGEST_SETTINGS = 4 * 2**20  # bytes; ours have a few thousand


@dataclass(frozen=True)
class StoredResult:
    """A finished animation as it lies in a folder.

    Attributes:
        output: the video file, or folder of frames.
        settings_file: the JSON beside it.
        settings: what that holds.
        made: when.
    """

    output: Path
    settings_file: Path
    settings: Mapping[str, Any]
    made: datetime

    @property
    def name(self) -> str:
        """What a person calls it."""
        return self.output.stem

    @property
    def photo_name(self) -> str:
        """Name of the photo file, without its folder."""
        return file_name(self.settings.get("photo"))

    @property
    def motion_name(self) -> str:
        """Name of the clip's file, without its folder."""
        return file_name(self.settings.get("motion"))

    @property
    def num_frames(self) -> int:
        """Frames of the result; 0 if the settings do not say."""
        return _positive(self.settings.get("num_frames"), int)

    @property
    def fps(self) -> float:
        """Frames a second of the result; 25 if the settings do not say."""
        return _positive(self.settings.get("output_fps"), float) or 25.0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; 0 where the settings do not say."""
        return tuple(_positive(self.settings.get(name), int) for name in ("width", "height"))

    @cached_property
    def strip(self) -> Path | None:
        """The side by side video, if it was made and is still there."""
        path = side_by_side_path(self.output)
        return path if path.is_file() else None

    def companions(self) -> list[Path]:
        """Every file that belongs to the result: itself, its settings, strip and exports, if there."""
        exports = [self.output.with_name(self.name + suffix) for suffix in EXPORT_SUFFIXES]
        own = [self.output, self.settings_file, side_by_side_path(self.output), *exports]
        return [path for path in dict.fromkeys(own) if path.exists()]


def read_result(settings_file: Path) -> StoredResult | None:
    """The result that a settings file speaks of, be it there or not; ``None`` if it is another kind of JSON.

    Raises:
        InputError: it is meant to be JSON and cannot be read.
    """
    try:
        settings = read_json(settings_file, most=LARGEST_SETTINGS)
        changed = settings_file.stat().st_mtime
    except Unreadable as error:
        raise InputError(f"The settings {settings_file.name} cannot be read: {error.reason}.") from error
    except OSError as error:  # it went meanwhile
        raise InputError(f"The settings {settings_file.name} cannot be read: {error.strerror}.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("output"), str):
        return None
    # The folder may have been moved, so only the kind of file is taken from the settings.
    output = settings_file.with_suffix(Path(file_name(settings["output"])).suffix)
    if output == settings_file:
        return None
    return StoredResult(output, settings_file, settings, _made(output.stem, changed))


def result_of(output: Path) -> StoredResult:
    """The result of a video.

    Raises:
        InputError: it is gone, or has no settings beside it.
    """
    settings_file = output.with_suffix(".json")
    result = read_result(settings_file) if settings_file.is_file() else None
    if result is None or result.output != output or not output.exists():
        raise InputError(f"The result {output.name} is not there any more, or has lost its settings.")
    return result


def _made(stem: str, changed: float) -> datetime:
    """The moment in a result's name, which copies keep; else that of the file."""
    stamp = _STAMP.match(stem)
    if stamp:
        try:
            return datetime.strptime(stamp[1], "%Y%m%d-%H%M%S")
        except ValueError:  # digits that are no date
            return datetime.fromtimestamp(changed)
    return datetime.fromtimestamp(changed)


def _positive(value: Any, kind: type) -> Any:
    """``value`` if it is a number above 0, else 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return kind(value) if is_number and 0 < value < 1e9 else kind(0)
