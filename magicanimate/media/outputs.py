"""What may be written where, and the settings inside each result: the one place for both, for every command.

An input is never written to. An existing output is replaced if this program made it, which its metadata
tell; any other file is replaced only on request (``overwrite``), a folder with other files never.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import av

from magicanimate import __version__
from magicanimate.errors import InputError
from magicanimate.files import file_name, parse_json, partial_path, read_json, remove, sweep
from magicanimate.media.photo import open_picture
from magicanimate.media.video_file import open_container

PNG_KEY = "magicanimate"
"""Keyword of the text chunk in png frames; other files have the JSON as their comment."""

PNG_SOFTWARE = "MagicAnimate"
"""Software text of every png frame written here; a folder is replaced only if its frames have it."""

FRAME_NAME = re.compile(r"\d{6,}\.png")
"""Names of the png frames written here."""

PATHS = (
    *("photo", "motion", "keypoints", "driving_video", "mask", "background", "output", "weights"),
    "checkpoint",
)
"""Settings that name files."""

PROGRAM = f"MagicAnimate {__version__}"
"""The setting "program" of everything that is written here: the mark by which it is known again."""

SUFFIXES = (".mp4", ".webm", ".mov", ".gif", "")
"""What can be written; no suffix is a folder of png frames."""


def names_only(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file may carry them that goes to others: of paths, which name people, the last part."""
    named = {
        name: file_name(value) for name, value in settings.items() if name in PATHS and value is not None
    }
    lists = (name for name in ("lora", "other_photos") if settings.get(name))
    # Lists of files, each of which may name a person as well.
    named |= {name: [file_name(each) for each in settings[name]] for name in lists}
    return {**settings, **named}


def encode_settings(settings: Mapping[str, Any]) -> str:
    """Settings as one line of ASCII JSON, which every container keeps unchanged; files without folders."""
    return json.dumps(names_only(settings), default=str)


def read_metadata(path: Path | str) -> dict[str, Any] | None:
    """The settings inside a file or a folder of png frames; ``None`` if there are none, or none of ours."""
    path = Path(path)
    if path.is_dir():
        # Every frame of a folder carries the settings; the first is as good as any.
        path = min(path.glob("*.png"), default=path)
    if not path.is_file():
        return None
    try:
        text = _text(path)
        # The comment of a file that others made may be anything.
        settings = parse_json(text) if text else None
    except (InputError, av.FFmpegError, OSError, ValueError, SyntaxError):
        return None
    return settings if isinstance(settings, dict) else None


def is_our_frame(path: Path) -> bool:
    """Whether a png file was written by this program."""
    if not path.is_file():
        return False
    try:
        with open_picture(path, what="frame") as image:
            return image.info.get("Software") == PNG_SOFTWARE
    except InputError:
        return False


def _text(path: Path) -> str | None:
    if path.suffix.lower() in (".png", ".gif"):
        with open_picture(path, what="file") as image:
            found = image.info.get(PNG_KEY) or image.info.get("comment")
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else found
    with open_container(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return tags.get("comment")


def insert_gif_comment(path: Path, text: str) -> None:
    """Put a comment extension (GIF89a specification, section 24) behind the header of a gif file."""
    data = path.read_bytes()
    packed = data[10]
    head = 13 + (3 * 2 ** ((packed & 7) + 1) if packed & 0x80 else 0)
    # A gif holds text in blocks of at most 255 bytes.
    raw = text.encode("utf-8")
    blocks = b"".join(bytes([len(raw[i : i + 255])]) + raw[i : i + 255] for i in range(0, len(raw), 255))
    path.write_bytes(data[:head] + b"\x21\xfe" + blocks + b"\x00" + data[head:])


def is_ours(settings: Any) -> bool:
    """Whether settings read out of a file say that this program, of any version, wrote it."""
    program = settings.get("program") if isinstance(settings, Mapping) else None
    return isinstance(program, str) and program.startswith("MagicAnimate ")


def is_our_video(path: Path) -> bool:
    """Whether a video or gif was written by this program."""
    return is_ours(read_metadata(path))


def is_our_json(path: Path) -> bool:
    """Whether a JSON file was written by this program."""
    try:
        return is_ours(read_json(path))
    except InputError:
        return False


def check_output(
    path: Path | str,
    *,
    inputs: Iterable[Path | None] = (),
    overwrite: bool = False,
    suffixes: tuple[str, ...] = SUFFIXES,
) -> Path:
    """Refuse, before any work is done, a video or folder of frames that cannot or must not be written.

    Makes missing folders, and removes what killed runs left half-written there.

    Args:
        inputs: files and folders that are read; ``None`` among them is passed over.
        overwrite: replace a file that this program did not make.
        suffixes: of `SUFFIXES`, those that are possible here.

    Raises:
        InputError: an unknown suffix, an input, a folder where a file should go or the reverse, a foreign
            file, a name that the disk cannot hold, no rights.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        kinds = ", ".join(suffix for suffix in suffixes if suffix)
        also = ", or none for a folder of png frames" if "" in suffixes else ""
        raise InputError(f"The output {path} has the unknown suffix {path.suffix!r}; use {kinds}{also}.")
    if path.suffix:
        return check_file_output(path, is_our_video, inputs=inputs, overwrite=overwrite)
    status = _status(path)
    _refuse_inputs(path, inputs)
    if status is not None and not path.is_dir():
        raise InputError(f"The output {path} is a file; choose another name for the folder of frames.")
    if status is not None:
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            raise _impossible(path, error) from error
        if not all(FRAME_NAME.fullmatch(entry.name) and is_our_frame(entry) for entry in entries):
            raise InputError(f"The output {path} is a folder that holds other files; choose a new folder.")
    return _with_folder(path)


def check_file_output(
    path: Path, ours: Callable[[Path], bool], *, inputs: Iterable[Path | None] = (), overwrite: bool = False
) -> Path:
    """As `check_output` for a file of any kind; ``ours`` says whether this program made an existing one.

    Raises:
        InputError: as `check_output`.
    """
    status = _status(path)
    _refuse_inputs(path, inputs)
    if path.is_dir():
        raise InputError(f"The output {path} is a folder; choose another name for the file.")
    if status is not None and not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        raise InputError(f"The output {path} exists and is not an ordinary file; choose another name.")
    if status is not None and not overwrite and path.exists() and not ours(path):
        raise InputError(
            f"{path} exists and was not made by this program; choose another name for the output, or use "
            "--overwrite to replace it."
        )
    return _with_folder(path)


def _status(path: Path) -> os.stat_result | None:
    """Of what is there already, ``None`` if nothing is.

    Raises:
        InputError: nothing can be there.
    """
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # the latter: a null character, or one that no name can have
        raise _impossible(path, error) from error


def _impossible(path: Path, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or "its name is not possible"
    shown = str(path) if len(str(path)) <= 300 else f"{str(path)[:300]}..."
    return InputError(f"The output {shown!r} cannot be written ({reason}); choose another name or place.")


def _refuse_inputs(path: Path, inputs: Iterable[Path | None]) -> None:
    for given in filter(None, inputs):
        if _is_same(path, Path(given)) or (path.is_dir() and _is_within(Path(given), path)):
            raise InputError(f"The output {path} is also an input; choose another name for it.")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there
        return os.path.abspath(one) == os.path.abspath(other)


def _is_within(file: Path, folder: Path) -> bool:
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links
        return False


def _with_folder(path: Path) -> Path:
    """Make the path's folder and check that it can be written to; returns the path."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be made ({error.strerror}); choose another place."
        ) from error
    sweep(path.parent)
    probe = partial_path(path)  # rights alone do not tell: some file systems take no files from anybody
    try:
        # A folder is made and removed at once, and no user sees it.
        probe.mkdir()
    except OSError as error:
        raise InputError(
            f"The folder {path.parent} cannot be written to ({error.strerror}); choose another place."
        ) from error
    finally:
        remove(probe)
    return path
