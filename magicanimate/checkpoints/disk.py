"""Free disk space, and folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from magicanimate.errors import InputError

PIPELINE_CLASS = "MagicAnimatePipeline"
MODEL_INDEX = "model_index.json"


def human_bytes(count: int) -> str:
    """``12_300_000_000`` -> "12.3 GB" (decimal units, as disks and the Hub count)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def free_bytes(path: Path) -> int:
    """Free bytes on the disk that holds ``path``, which need not exist yet."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_free(path: Path, needed: int, *, what: str, fix: str, free: Callable[[Path], int]) -> None:
    """Refuse to start what cannot be finished.

    Args:
        path: where the bytes will go.
        needed: how many.
        what, fix: words for the message.
        free: tells the free bytes at a path, `free_bytes` but in tests.

    Raises:
        InputError: there is less space than needed; the sentence has both numbers.
    """
    available = free(path)
    if available < needed:
        raise InputError(
            f"{what} needs {human_bytes(needed)} of free disk and {path} has {human_bytes(available)}; {fix}."
        )


def model_index(folder: Path) -> dict | None:
    """The ``model_index.json`` of a MagicAnimate pipeline folder; ``None`` if there is none."""
    try:
        index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(index, dict) and index.get("_class_name") == PIPELINE_CLASS
    return index if is_ours else None


def check_replaceable(dest: Path, *, overwrite: bool) -> None:
    """Whether a pipeline may be written to ``dest``.

    Raises:
        InputError: something is there that is not an empty folder, nor a pipeline to be overwritten.
    """
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not dest.is_dir() or model_index(dest) is None:
        raise InputError(f"{dest} already exists and is not a converted checkpoint; choose another folder.")
    if not overwrite:
        raise InputError(f"{dest} already holds a checkpoint; choose another folder or ask to overwrite it.")


@contextlib.contextmanager
def staged_folder(dest: Path) -> Iterator[Path]:
    """A new folder beside ``dest`` that takes its place, and name, only if the block ends well.

    Whatever happens inside, nothing half-written stays behind; an older ``dest`` lives until then.

    Raises:
        InputError: nothing can be written there.
    """
    dest = dest.absolute()
    mark = uuid.uuid4().hex[:8]
    staging, old = dest.with_name(f".{dest.name}.{mark}.partial"), dest.with_name(f".{dest.name}.{mark}.old")
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{dest.parent} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        yield staging
        _share(staging)
        if dest.exists():
            dest.rename(old)
        try:
            staging.rename(dest)
        except OSError:
            if old.exists():
                old.rename(dest)
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _share(folder: Path) -> None:
    """Give every file the permissions that new files usually get; safetensors makes its own private."""
    probe = folder / ".permissions"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
