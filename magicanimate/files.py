"""Read untrusted JSON and YAML, and write files completely or not at all.

A file that is being written has a temporary name beside its target. The name contains the process that writes
it, by number and start time, so that the next run can tell the leftovers of a killed one from files that are
still being written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import reprlib
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from magicanimate.errors import InputError

LARGEST_JSON = 64 * 2**20
"""Bytes. The largest JSON that is read are tokenizers' vocabularies, with a few megabytes."""

LARGEST_YAML = 256 * 2**10
"""Bytes. PyYAML needs seconds for this much."""

# Largest depth of nesting, and number of values once every alias of YAML is expanded.
_DEEPEST, _MOST_VALUES = 64, 1_000_000
_LONGEST_NAME = 255  # longest file name on common file systems, in bytes
_HOST = hashlib.sha256(platform.node().encode("utf-8", "surrogateescape")).hexdigest()[:8]
_PARTIAL = re.compile(
    r"\.(?P<name>.*)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.(?P<kind>partial|old)\b"
)
# A whole scalar with a drive or server in front, or a picture's or video's suffix at the end, and single
# backslashes.
_WINDOWS_PATH = re.compile(
    r"""(?<=[\s\[,:-])"(
        (?:[A-Za-z]:|\\)(?:\\[^"\\\r\n]+)+\\?
        | [^"\\\r\n:]+(?:\\[^"\\\r\n]+)+\.\w{2,4}
    )"(?=\s*(?:[],\#]|$))""",
    re.MULTILINE | re.VERBOSE,
)

_swept: set[Path] = set()
_in_work: set[Path] = set()
_BLOCK = 1 << 20


class Unreadable(InputError):
    """A file that cannot be read, or is not what it should be.

    Attributes:
        reason: why, as a clause for another sentence.
    """

    def __init__(self, path: Path | str, reason: str):
        super().__init__(f"{path} cannot be read ({reason}); check the file.")
        self.reason = reason


def require_ordinary(path: Path) -> os.stat_result:
    """Refuse what is not an ordinary file: opening a named pipe would block.

    Raises:
        Unreadable: it is missing or something else.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # the latter: a null character in the name
        raise Unreadable(path, getattr(error, "strerror", None) or "its name is not possible") from error
    if not stat.S_ISREG(status.st_mode):
        is_folder = stat.S_ISDIR(status.st_mode)
        raise Unreadable(path, "it is a folder" if is_folder else "it is not an ordinary file")
    return status


def read_text(path: Path, *, most: int) -> str:
    """The UTF-8 text of a file of at most ``most`` bytes; a byte order mark is left out.

    Raises:
        Unreadable: it is missing, larger, something else or in another encoding.
    """
    require_ordinary(path)
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise Unreadable(path, error.strerror or str(error)) from error
    # One byte more than allowed was read to tell, whatever size the file claims.
    if len(data) > most:
        raise Unreadable(path, f"it is larger than the {most} bytes that such a file may have")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(path, "it is not UTF-8 text") from error


def parse_json(text: str | bytes) -> Any:
    """The value that a JSON text means.

    Raises:
        ValueError: it is no JSON, or nested more than 64 levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _measure(value)
    return value


def read_json(path: Path, *, most: int = LARGEST_JSON) -> Any:
    """The value in a JSON file of at most ``most`` bytes.

    Raises:
        Unreadable: the file cannot be read, or is no JSON.
    """
    try:
        return parse_json(read_text(path, most=most))
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(path, "it is not valid JSON") from error


def read_json_object(path: Path, *, most: int = LARGEST_JSON) -> dict[str, Any]:
    """As `read_json`, but only ``{name: value}``.

    Raises:
        Unreadable: the file cannot be read, or holds something else.
    """
    value = read_json(path, most=most)
    if not isinstance(value, dict):
        raise Unreadable(path, "it holds no JSON object")
    return value


def read_yaml(path: Path) -> Any:
    """The value in a YAML file, of plain types only.

    Raises:
        Unreadable: the file cannot be read, is no YAML, or means more than its size lets one expect.
    """
    import yaml

    text = _as_meant(read_text(path, most=LARGEST_YAML))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # PyYAML counts lines from 0, editors from 1.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise Unreadable(path, f"it is not valid YAML{where}") from error
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError) as error:
        # What PyYAML raises on a date that does not exist, on ``!!int x`` and the like.
        raise Unreadable(path, f"one of its values is not possible: {shortened(error)}") from error
    except RecursionError as error:
        raise Unreadable(path, "it is nested too deeply") from error
    try:
        _measure(value)
    except ValueError as error:
        raise Unreadable(path, f"it is {error}") from error
    return value


def _as_meant(text: str) -> str:
    """Escape the backslashes of Windows paths between double quotes in YAML.

    YAML takes ``\\`` there for the beginning of an escape: ``"C:\\new.png"`` has a line break in it.
    """

    def single_quoted(match: re.Match[str]) -> str:
        return "'" + match[1].replace("'", "''") + "'"

    return _WINDOWS_PATH.sub(single_quoted, text)


def _measure(value: Any) -> None:
    """Refuse YAML that is nested too deeply, or too large once its aliases are expanded.

    Raises:
        ValueError: with the reason.
    """
    sizes: dict[int, tuple[int, int]] = {}  # by identity: values and levels; an alias is the same object

    def size(value: Any, level: int) -> tuple[int, int]:
        if not isinstance(value, (dict, list, tuple, set)):
            return 1, 0
        if level > _DEEPEST:  # an alias to something around itself, too, gets here
            raise ValueError("nested too deeply")
        # Counted once for each object: nine levels of ten aliases would otherwise be a billion visits.
        if id(value) not in sizes:
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            found = [size(part, level + 1) for part in parts]
            count = 1 + sum(values for values, _ in found)
            if count > _MOST_VALUES:
                raise ValueError("too much to read: its aliases repeat too many values")
            sizes[id(value)] = (count, 1 + max((levels for _, levels in found), default=0))
        if level + sizes[id(value)][1] > _DEEPEST + 1:
            raise ValueError("nested too deeply")
        return sizes[id(value)]

    size(value, 0)


def shortened(value: Any) -> str:
    """A value as text of at most 80 characters, for messages."""
    text = str(value) if isinstance(value, Exception) else reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def listed(names: Sequence[str], most: int) -> str:
    """The first ``most`` names for a message, each of at most 80 characters: "a, b and 3 more"."""
    shown = ", ".join(name if len(name) <= 80 else f"{name[:77]}..." for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def human_bytes(count: int) -> str:
    """``12_300_000_000`` -> "12.3 GB" (decimal units, as disks and the Hub count)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def encode_json(value: Any, *, indent: int | None = 2) -> bytes:
    """A value as UTF-8 JSON; what is no JSON, such as a path, as its text.

    Names of files need not be UTF-8. Python keeps their odd bytes as lone surrogates, which JSON can only
    hold as escapes; they come back as they were.
    """
    # Readable in any language, so no escapes for what UTF-8 can hold.
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def partial_path(target: Path) -> Path:
    """A temporary name beside ``target`` for what will take its place, with the same suffix."""
    return _beside(target, "partial")


def _beside(target: Path, kind: str) -> Path:
    name, suffix = (target.stem, target.suffix) if kind == "partial" else (target.name, "")
    pid = os.getpid()
    mark = f".{_HOST}-{pid}-{_own_start(pid)}-{secrets.token_hex(4)}.{kind}{suffix}"
    # A name near the limit of the disk must still have room for the mark.
    room = _LONGEST_NAME - len(os.fsencode(mark)) - 1
    path = target.with_name(f".{os.fsencode(name)[:room].decode('utf-8', 'ignore')}{mark}")
    _in_work.add(path)
    return path


def keep_track(path: Path) -> Path:
    """Have `remove_unfinished` remove ``path``, too, which is returned."""
    _in_work.add(path)
    return path


def remove(path: Path) -> None:
    """Remove a file or folder of this program's, if it is there; errors are passed over."""
    _in_work.discard(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def remove_unfinished() -> None:
    """Remove the files that this process has not finished; for a program that is about to exit."""
    for path in list(_in_work):
        remove(path)


def sweep(folder: Path) -> None:
    """Remove files that processes which no longer run left unfinished in a folder.

    What had made room for its successor when the process was killed is put back.
    """
    try:
        entries = [(entry.name, Path(entry.path)) for entry in os.scandir(folder)]
    except OSError:  # not there yet, or not readable
        return
    for name, path in entries:
        found = _PARTIAL.match(name)
        if (
            found is None
            or found["host"] != _HOST
            or _is_at_work(path, int(found["pid"]), int(found["start"]))
        ):
            continue
        target = path.with_name(found["name"])
        if found["kind"] == "old" and not os.path.lexists(target):
            with contextlib.suppress(OSError):
                os.rename(path, target)
            continue
        remove(path)


def process_start(pid: int) -> float:
    """When a process began, in seconds: what tells it from a later one of its number.

    On Linux they count from the start of the computer, since the time of day at which a process began changes
    there with every correction of the clock; elsewhere from 1970.

    Raises:
        psutil.Error: there is no such process, or it may not be inspected.
    """
    import psutil

    return psutil.Process(pid).create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)


@lru_cache(maxsize=1)
def _own_start(pid: int) -> int:
    """The start of this process, in hundredths of a second; a fork has another number."""
    return round(100 * process_start(pid))


def _is_at_work(path: Path, pid: int, start: int) -> bool:
    """Whether the process that made a partial file still lives."""
    # This process knows for itself which of its files are unfinished.
    if pid == os.getpid() and start == _own_start(pid):
        return path in _in_work
    import psutil

    try:
        # Numbers of processes are used again, so the start must be the same one, too.
        return abs(100 * process_start(pid) - start) <= 1
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False


def put_in_place(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Rename finished files and folders to targets in the same folder: all of them or, after an error, none.

    Raises:
        OSError: one could not be; every target is as it was.
    """
    done: list[tuple[Path, Path, Path | None]] = []
    try:
        for made, target in pairs:
            # Old files are only set aside until all new ones are in place.
            done.append((made, target, _set_aside(target)))
            os.replace(made, target)
    except OSError:
        for made, target, before in reversed(done):
            with contextlib.suppress(OSError):
                if not os.path.lexists(made):
                    os.replace(target, made)
                if before is not None:
                    os.replace(before, target)
        raise
    finally:
        for made, _, before in done:
            _in_work.discard(made)
            if before is not None:
                remove(before)


def _set_aside(target: Path) -> Path | None:
    """Keep what is at a target under a second name; ``None`` if nothing is there."""
    if not os.path.lexists(target):
        return None
    before = _beside(target, "old")
    try:
        os.link(target, before, follow_symlinks=False)  # the first name stays: the file is never gone
    except (OSError, NotImplementedError):  # a folder, or a disk that knows no links
        os.rename(target, before)
    return before


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which takes the place of ``path`` when the block ends well.

    Args:
        durable: it is on the disk, not only on its way there, before an older one is replaced.
        private: only this user may read it.

    Raises:
        OSError: it cannot be written; nothing has changed.
    """
    if path.parent not in _swept:
        # Once for each folder and process: looking through a large gallery at each write would be slow.
        _swept.add(path.parent)
        sweep(path.parent)
    partial = partial_path(path)
    try:
        if private:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield partial
        if durable:
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
        if durable and os.name != "nt":
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                # On POSIX systems a rename itself is durable only when its folder is.
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        remove(partial)


def write_bytes(path: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file, whole or not at all; see `whole_file`.

    Raises:
        OSError: it cannot be written.
    """
    with whole_file(path, private=private) as partial:
        partial.write_bytes(data)


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON as `encode_json` makes it, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(path, encode_json(value, indent=indent))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits; memory does not grow with the file.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def timestamp() -> str:
    """The current time as it appears in the names of results: "20260131-174500"."""
    return f"{datetime.now():%Y%m%d-%H%M%S}"


def pair_name(photo: Path, motion: Path) -> str:
    """Photo and clip as they appear in the names of results."""
    return f"{photo.stem[:40]}_{motion.stem[:40]}"


def new_output(folder: Path, photo: Path, motion: Path, *, suffix: str = ".mp4") -> Path:
    """An unused file name in ``folder``, made of date, photo and clip."""
    base = f"{timestamp()}_{pair_name(photo, motion)}"
    path, number = folder / f"{base}{suffix}", 1
    # The settings beside a result belong to it, so both names must be free.
    while path.exists() or path.with_suffix(".json").exists():
        number += 1
        path = folder / f"{base}_{number}{suffix}"
    return path


def file_name(path: Any) -> str:
    """Last part of a path of any system, which may be text; empty for what is no path."""
    # A settings file may come from another system, whose separators this one does not know.
    return re.split(r"[/\\]", str(path))[-1] if isinstance(path, (str, Path)) else ""


def without_folders(text: str, *files: Path | str | None) -> str:
    """Replace the paths of uploads in a message by the names that the visitor gave them."""
    for file in files:
        if file:
            text = text.replace(str(file), Path(file).name)
    return text
