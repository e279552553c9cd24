"""A result in other kinds of file: webm, gif, or a zip of its frames, made when somebody wants them."""

from __future__ import annotations

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import parse_json, partial_path, remove, require_ordinary, sweep
from magicanimate.progress import ProgressMeter
from magicanimate.webui.gallery.results import LARGEST_SETTINGS, StoredResult

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

    Sound is kept where the kind has any; settings and the mark "AI-generated" are in every kind, content
    credentials where it can carry them.

    Args:
        result: of any kind itself.
        kind: "mp4" (H.264), "webm" (VP9), "gif", or "frames": a zip of png files and the settings.

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
            # A link, unlike a rename, never takes the place of a file that came meanwhile.
            _place(made, target)
        finally:
            remove(scratch)
    except OSError as error:
        raise InputError(f"{target.name} cannot be written ({error.strerror}); free some room.") from error
    return target


def _target(result: StoredResult, kind: ExportKind) -> tuple[Path, bool]:
    """Where an export goes, and whether it is there already; a foreign file of that name is left alone."""
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
    """Whether a file was exported from this very result: same name, and not older."""
    if path.stat().st_mtime < result.output.stat().st_mtime:
        return False
    return (_settings_inside(path) or {}).get(EXPORTED_FROM) == result.name


def _settings_inside(path: Path) -> Mapping[str, Any] | None:
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
    """Decode the result and encode it anew."""
    from magicanimate.media.motion import open_motion
    from magicanimate.media.writer import VideoWriter

    clip = open_motion(result.output, fps=result.fps if result.output.is_dir() else None)
    sound = {"sound_from": result.output} if clip.has_sound and target.suffix in (".mp4", ".webm") else {}
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
    """Content credentials for an export, where the result was to have them and the kind of file can."""
    from magicanimate.provenance import SIGNED_KINDS, Claim, Seal

    kind = target.suffix or ".png"
    if kind not in SIGNED_KINDS or not result.settings.get("credentials"):
        return None
    photo, motion = (Path(str(result.settings.get(name))) for name in ("photo", "motion"))
    return Seal(Claim(photo, motion, str(result.settings.get("model"))))


def _zipped(frames: Path, result: StoredResult) -> Path:
    """A zip of a folder of png files, which are compressed already, and the settings."""
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
    except OSError:  # a disk that knows no links
        if target.exists():
            raise
        shutil.move(made, target)
