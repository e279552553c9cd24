"""One result on disk: its files and settings, the video as other kinds of file, and small pictures of it."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import ExifTags, Image

from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import (
    Unreadable,
    file_name,
    parse_json,
    partial_path,
    read_json,
    remove,
    require_ordinary,
    sweep,
    write_bytes,
)
from magicanimate.progress import ProgressMeter
from magicanimate.request_checks import side_by_side_path

log = logging.getLogger(__name__)

EXPORT_SUFFIXES = (".mp4", ".webm", ".gif", "_frames.zip")
"""Endings of the files that exports leave beside a result."""

_STAMP = re.compile(r"(\d{8}-\d{6})_")
LARGEST_SETTINGS = 4 * 2**20  # bytes; ours have a few thousand


@dataclass(frozen=True)
class StoredResult:
    """A finished animation in a folder.

    Attributes:
        output: the video file, or folder of frames.
        settings_file: the JSON beside it.
        settings: its content.
        made: when.
    """

    output: Path
    settings_file: Path
    settings: Mapping[str, Any]
    made: datetime

    @property
    def name(self) -> str:
        """What people call it: the name of the file without its ending."""
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
    """The result that a settings file belongs to, whether it exists or not; ``None`` for any other JSON.

    Raises:
        InputError: it is meant to be JSON and cannot be read.
    """
    try:
        settings = read_json(settings_file, most=LARGEST_SETTINGS)
        changed = settings_file.stat().st_mtime
    except Unreadable as error:
        raise InputError(f"The settings {settings_file.name} cannot be read: {error.reason}.") from error
    except OSError as error:  # deleted since it was listed
        raise InputError(f"The settings {settings_file.name} cannot be read: {error.strerror}.") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("output"), str):
        return None
    # The folder may have been moved, so only the kind of file is taken from the settings.
    output = settings_file.with_suffix(Path(file_name(settings["output"])).suffix)
    if output == settings_file:
        return None
    return StoredResult(output, settings_file, settings, _when_made(output.stem, changed))


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


def _when_made(stem: str, changed: float) -> datetime:
    """The time in the result's name, which copying keeps; else the file's own."""
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


ExportKind = Literal["mp4", "webm", "gif", "frames"]
KINDS: tuple[ExportKind, ...] = get_args(ExportKind)

EXPORTED_FROM = "exported_from"
"""Setting inside an export: the name of the result it was made of."""


def export(
    result: StoredResult,
    kind: ExportKind,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """The result as a file of another kind, beside it; made only once and never over another file.

    Every kind holds the settings and the mark "AI-generated"; sound and content credentials are kept where
    the kind can hold them.

    Args:
        result: of any kind itself.
        kind: "mp4" (H.264), "webm" (VP9), "gif", or "frames": a zip of PNG files and the settings.

    Returns:
        the file; the result itself if it is of that kind already.

    Raises:
        InputError: the result cannot be read, or the file not be written.
        Cancelled: ``should_stop()`` was true; nothing is left behind.
    """
    if result.output.suffix == f".{kind}":
        return result.output
    target, is_made = _target(result, kind)
    if is_made:
        return target
    try:
        sweep(result.output.parent)
        scratch = partial_path(result.output.with_suffix(""))
        scratch.mkdir()
        try:
            made = scratch / ("frames" if kind == "frames" else target.name)
            _rewrite(result, made, on_progress, should_stop)
            if kind == "frames":
                made = _zipped(made, result)
            # A link, unlike a rename, never replaces a file that appeared meanwhile.
            _place(made, target)
        finally:
            remove(scratch)
    except OSError as error:
        raise InputError(f"{target.name} cannot be written ({error.strerror}); free some room.") from error
    return target


def _target(result: StoredResult, kind: ExportKind) -> tuple[Path, bool]:
    """Where an export goes, and whether it is there already; other files of that name are left alone."""
    suffix = "_frames.zip" if kind == "frames" else f".{kind}"
    number = 1
    while True:
        counted = f"_{number}" if number > 1 else ""
        target = result.output.with_name(f"{result.name}{counted}{suffix}")
        if not target.exists():
            return target, False
        if _is_export(target, result):
            return target, True
        number += 1


def _is_export(path: Path, result: StoredResult) -> bool:
    """Whether a file was exported from this result: it says so, and is not older than the result."""
    if path.stat().st_mtime < result.output.stat().st_mtime:
        return False
    return (_settings_inside(path) or {}).get(EXPORTED_FROM) == result.name


def _settings_inside(path: Path) -> Mapping[str, Any] | None:
    """The settings that an exported or written file carries itself; ``None`` if it carries none."""
    from magicanimate.media.outputs import read_metadata

    if path.suffix != ".zip":
        return read_metadata(path)
    try:
        require_ordinary(path)
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("settings.json").file_size > LARGEST_SETTINGS:
                return None
            settings = parse_json(archive.read("settings.json"))
    except (OSError, KeyError, ValueError, RuntimeError, NotImplementedError, zlib.error, zipfile.BadZipFile):
        return None
    return settings if isinstance(settings, dict) else None


def _exported_settings(result: StoredResult) -> dict[str, Any]:
    from magicanimate.media.outputs import names_only

    return names_only({**result.settings, "ai_generated": True, EXPORTED_FROM: result.name})


def _rewrite(
    result: StoredResult, target: Path, on_progress: OnProgress | None, should_stop: ShouldStop | None
) -> None:
    """Decode the result and encode it again."""
    from magicanimate.media.motion import open_motion
    from magicanimate.media.writer import VideoWriter

    clip = open_motion(result.output, fps=result.fps if result.output.is_dir() else None)
    has_sound = clip.has_sound and target.suffix in (".mp4", ".webm")
    sound: dict[str, Any] = {"sound_from": result.output} if has_sound else {}
    meter = ProgressMeter(on_progress)
    meter.begin("write", clip.num_frames_estimate)
    with VideoWriter(
        target,
        width=clip.width,
        height=clip.height,
        fps=clip.rate,
        metadata=_exported_settings(result),
        seal=_seal(result, target),
        **sound,
    ) as writer:
        for i, frame in enumerate(clip.frames()):
            if should_stop is not None and should_stop():
                raise Cancelled("the export was stopped")
            writer.write(frame)
            meter.update(i + 1, clip.num_frames_estimate)
    meter.finish()


def _seal(result: StoredResult, target: Path) -> Callable[[Path], None] | None:
    """Content credentials for an export, if the result has them and this kind of file can."""
    from magicanimate.results import SIGNED_KINDS, Claim, Seal

    kind = target.suffix or ".png"
    if kind not in SIGNED_KINDS or not result.settings.get("credentials"):
        return None
    photo, motion = (Path(str(result.settings.get(name))) for name in ("photo", "motion"))
    return Seal(Claim(photo, motion, str(result.settings.get("model"))))


def _zipped(frames: Path, result: StoredResult) -> Path:
    """A zip of a folder of PNG files and the settings; stored, as PNG is compressed already."""
    archive_path = frames.with_suffix(".zip")
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_STORED) as archive:
        settings = json.dumps(_exported_settings(result), indent=2, ensure_ascii=False, default=str)
        archive.writestr("settings.json", settings + "\n")
        for frame in sorted(frames.iterdir()):
            archive.write(frame, f"{result.name}/{frame.name}")
    return archive_path


def _place(made: Path, target: Path) -> None:
    try:
        target.hardlink_to(made)
    except OSError:  # a file system without links
        if target.exists():
            raise
        shutil.move(made, target)


SUFFIXES = (".json", ".mp4", ".webm", ".gif", ".png")
"""Files that settings are read from."""


def read_settings(file: Path) -> dict[str, Any]:
    """Settings of a result file: mp4, webm, gif, a png frame, or the JSON.

    Raises:
        InputError: it has none.
    """
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{file.name} is no result; drop an {', '.join(SUFFIXES[1:])} or {SUFFIXES[0]} file."
        )
    try:
        settings = read_json(file, most=LARGEST_SETTINGS) if suffix == ".json" else _settings_inside(file)
    except Unreadable as error:
        raise InputError(
            f"{file.name} cannot be read ({error.reason}); drop the settings of a result."
        ) from error
    if not isinstance(settings, dict) or not {"photo", "motion", "seed"} <= settings.keys():
        raise InputError(
            f"{file.name} has no settings of MagicAnimate inside; drop a result that was made here."
        )
    return settings


def names_files_only(file: Path, settings: Mapping[str, Any]) -> bool:
    """Whether settings from `read_settings` name files without folders, as those inside videos do."""
    return file.suffix.lower() != ".json" or EXPORTED_FROM in settings


_THUMBNAILS = ".thumbnails"
_SIDE = 192  # pixels of the longer side
_SECONDS = 3.0
_FPS = 10.0


class Thumbnails:
    """Thumbnails of the results of a folder.

    Args:
        folder: of the results; the pictures are in ``.thumbnails`` in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder / _THUMBNAILS

    def ready(self, result: StoredResult) -> Path | None:
        """The thumbnail, if it exists."""
        path = self._path(result)
        return path if path is not None and path.is_file() else None

    def make(self, result: StoredResult) -> Path | None:
        """The thumbnail, made if it does not exist; ``None`` if the result cannot be read."""
        path = self._path(result)
        if path is None or path.is_file():
            return path
        try:
            self.folder.mkdir(exist_ok=True)
            write_bytes(path, _encoded(result))
        except (OSError, InputError) as error:
            log.warning("no thumbnail of %s: %s", result.name, error)
            return None
        return path

    def sweep(self, results: list[StoredResult]) -> None:
        """Remove the thumbnails of other results."""
        wanted = {self._path(result) for result in results}
        for path in self.folder.glob("[!.]*.webp"):
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _path(self, result: StoredResult) -> Path | None:
        """Named by the file and its time of change, so that a result that was made again gets a new one."""
        try:
            changed = result.output.stat().st_mtime_ns
        except OSError:
            return None
        key = f"{result.output.relative_to(self.folder.parent).as_posix()} {changed}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.webp"


def _encoded(result: StoredResult) -> bytes:
    """The first seconds as an endless WebP.

    Raises:
        InputError: the result cannot be read.
    """
    from magicanimate.media.motion import open_motion

    clip = open_motion(result.output, fps=result.fps if result.output.is_dir() else None)
    stride = max(1, round(clip.fps / _FPS))
    first = islice(clip.frames(), 0, round(_SECONDS * clip.fps), stride)
    return encode_webp(list(first), fps=clip.fps / stride, side=_SIDE)


def encode_webp(
    frames: np.ndarray | Sequence[np.ndarray], *, fps: float | None = None, side: int = 384
) -> bytes:
    """uint8 ``h w 3`` frames -> an endless WebP whose longer side has ``side`` pixels.

    It shows 8 frames a second unless told otherwise. Its EXIF says "AI-generated", as the metadata of the
    videos does.
    """
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        scale = side / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pictures.append(picture.resize(size, Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "AI-generated"
    exif[ExifTags.Base.Software] = "MagicAnimate"
    file = io.BytesIO()
    pictures[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / (fps or 8)),
        loop=0,
        quality=60,
        exif=exif,
    )
    return file.getvalue()


_PHOTO_SIDE = 112  # pixels, twice what the page shows


def thumbnail(photo: Path) -> bytes | None:
    """A photo as a WebP of at most 112 x 112 pixels; ``None`` if it is gone or no picture."""
    try:
        return _thumbnail(photo, photo.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=256)
def _thumbnail(photo: Path, mtime_ns: int) -> bytes | None:
    from magicanimate.media.photo import load_photo, open_picture

    try:
        with open_picture(photo) as picture:
            picture.draft("RGB", (2 * _PHOTO_SIDE, 2 * _PHOTO_SIDE))  # a JPEG is decoded smaller at no cost
            small = Image.fromarray(load_photo(picture))
    except InputError:
        return None
    small.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    return file.getvalue()
