"""Folders of checkpoints: where they are, their ``model_index.json`` and digest, room on the disk, and how a
folder is replaced completely or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from magicanimate import ASSETS
from magicanimate.checkpoints.layout import CONFIG, MODEL_INDEX, looks_published
from magicanimate.config import DRIVINGS, FUSIONS
from magicanimate.errors import InputError
from magicanimate.files import (
    Unreadable,
    human_bytes,
    partial_path,
    put_in_place,
    read_json_object,
    remove,
    shortened,
    sweep,
)

NAMES = ("mini", "full")
PIPELINE_CLASS = "MagicAnimatePipeline"
# Files of a pipeline, or of a single network, besides the folders of networks.
_OTHER_FILES = ("README.md", "config.json", "diffusion_pytorch_model.safetensors")
_LARGEST_INDEX = 2**20  # bytes
_LARGEST_SIDE, _SIDE_MULTIPLE = 16_384, 8  # pixels

# Settings of a ``model_index.json``: type and bounds.
_INDEX_VALUES: dict[str, tuple[type | tuple[type, ...], float | None, float | None]] = {
    "kind": (str, None, None),
    "default_width": (int, 8, _LARGEST_SIDE),
    "default_height": (int, 8, _LARGEST_SIDE),
    "default_steps": (int, 1, 1000),
    "default_guidance_scale": ((int, float), 0, 1000),
}

# Settings that a ``model_index.json`` of an older version lacks.
_INDEX_CHOICES = {"fusion": FUSIONS, "driving": DRIVINGS, "default_background": ("photo", "still")}

# Components of a ``model_index.json``, each with its library and class.
_COMPONENTS = {
    *("vae", "unet", "appearance_encoder", "controlnet", "controlnet_keypoints", "scheduler"),
    *("empty_prompt", "text_encoder", "tokenizer"),
}

_PIECES, _PIECE = 64, 1 << 16  # of a large file so many pieces of so many bytes go into the digest
_LIBRARIES = ("diffusers", "transformers", "magicanimate")
HOME_VARIABLE = "MAGICANIMATE_HOME"


def free_bytes(path: Path) -> int:
    """Free bytes on the disk that holds ``path``, which need not exist yet."""
    # The disk is that of the nearest parent that exists already.
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_free(path: Path, needed: int, *, what: str, fix: str) -> None:
    """Refuse to start work for which the disk of ``path`` has too little room.

    Raises:
        InputError: there is less space than needed; the sentence has both numbers, ``what`` and ``fix``.
    """
    available = free_bytes(path)
    if available < needed:
        raise InputError(
            f"{what} needs {human_bytes(needed)} of free disk and {path} has {human_bytes(available)}; {fix}."
        )


def model_index(folder: Path) -> dict | None:
    """The ``model_index.json`` of a MagicAnimate pipeline folder; ``None`` without one that can be used."""
    try:
        return read_model_index(folder)
    except InputError:
        return None


def read_model_index(folder: Path) -> dict[str, Any]:
    """The ``model_index.json`` of a MagicAnimate pipeline folder, its settings checked.

    Raises:
        Unreadable: there is none, it is damaged, or it belongs to another pipeline.
    """
    path = folder / MODEL_INDEX
    index = read_json_object(path, most=_LARGEST_INDEX)
    if index.get("_class_name") != PIPELINE_CLASS:
        raise Unreadable(path, f"it belongs to no {PIPELINE_CLASS}")
    for name, (kind, low, high) in _INDEX_VALUES.items():
        value: Any = index.get(name)
        # In Python a bool is an int, in a configuration it is a mistake.
        is_right = isinstance(value, kind) and not isinstance(value, bool)
        if not is_right or not (low is None or high is None or low <= value <= high):
            raise Unreadable(path, f"its {name} is {shortened(value)}")
    for name, choices in _INDEX_CHOICES.items():
        if name in index and index[name] not in choices:
            raise Unreadable(path, f"its {name} is {shortened(index[name])}")
    # diffusers imports the library that is named here, so only known ones are let through.
    for name in _COMPONENTS & index.keys():
        component = index[name]
        is_class = (
            isinstance(component, list)
            and len(component) == 2
            and all(isinstance(x, str | None) for x in component)
        )
        if not is_class or (component[0] or "diffusers").partition(".")[0] not in _LIBRARIES:
            raise Unreadable(path, f"its {name} is {shortened(component)}")
    for name in ("default_width", "default_height"):
        if index[name] % _SIDE_MULTIPLE:
            raise Unreadable(path, f"its {name} is {index[name]}, no multiple of {_SIDE_MULTIPLE}")
    return index


def check_replaceable(
    dest: Path, *, overwrite: bool | None, is_earlier: Callable[[Path], bool] | None = None
) -> None:
    """Whether a folder of networks may be written to ``dest``.

    Args:
        overwrite: an earlier one may be replaced; ``None`` means unless it holds files that are
            no part of a checkpoint, except a model card, which the caller keeps.
        is_earlier: whether a folder is an earlier one; whether it is a pipeline when ``None``.

    Raises:
        InputError: something is there that is not an empty folder, nor an earlier one to be overwritten.
    """
    try:
        entries = list(dest.iterdir()) if dest.is_dir() else None
        exists = os.path.lexists(dest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its name is not possible"
        raise InputError(f"{dest} cannot be used ({reason}); choose another folder.") from error
    # A training keeps the model card that its author wrote.
    model_card = overwrite is None and [entry.name for entry in entries or ()] == ["README.md"]
    if not exists or entries == [] or model_card:
        return
    if entries is None or not (is_earlier or _is_pipeline)(dest):
        raise InputError(f"{dest} already exists and is not a converted checkpoint; choose another folder.")
    if overwrite is False:
        raise InputError(f"{dest} already holds a checkpoint; choose another folder or ask to overwrite it.")
    own = {*(model_index(dest) or {}), MODEL_INDEX, *_OTHER_FILES}
    # A folder is replaced as a whole, so files that do not belong to a checkpoint would be lost.
    foreign = [entry.name for entry in entries if entry.name not in own]
    if foreign and overwrite is None:
        raise InputError(
            f"{dest} holds {sorted(foreign)[0]}, which is no part of a checkpoint and would be lost; move it "
            "or choose another folder."
        )


def _is_pipeline(folder: Path) -> bool:
    return model_index(folder) is not None


@contextlib.contextmanager
def staged_folder(dest: Path) -> Iterator[Path]:
    """A temporary folder that replaces ``dest`` only if the ``with`` block succeeds.

    Whatever happens inside, nothing half-written stays behind; an older ``dest`` lives until then.

    Raises:
        InputError: nothing can be written there.
    """
    dest = dest.absolute()
    # What a killed conversion left beside it may be 11 GB.
    sweep(dest.parent)
    staging = partial_path(dest)
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"{dest.parent} cannot be written ({error.strerror}); choose another folder."
        ) from error
    try:
        yield staging
        _share(staging)
        put_in_place([(staging, dest)])
    finally:
        remove(staging)


def _share(folder: Path) -> None:
    """Give every file the permissions that new files usually get; safetensors makes its own private."""
    probe = folder / ".permissions"
    probe.touch()
    # The umask cannot be read without being changed, so a new file tells it.
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def home() -> Path:
    """Folder of this program's data: ``MAGICANIMATE_HOME`` or "magicanimate" in the user's cache folder."""
    if os.environ.get(HOME_VARIABLE):
        return Path(os.environ[HOME_VARIABLE]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "magicanimate"


def full_folder() -> Path:
    """Folder of the converted full model, whether it exists yet or not."""
    return home() / "full"


def downloads_folder() -> Path:
    """Folder of the files from the Hub until they are converted."""
    return home() / "downloads"


def folder_digest(folder: Path) -> str:
    """A digest of a folder of networks that identifies its content: 64 hexadecimal digits.

    It covers the names and sizes of all files but model cards, and their bytes: all of them up to 4 MB, of
    larger files 64 evenly spaced pieces of 64 kB. Training changes every weight a little, so that no two
    checkpoints agree in all of these, and 11 GB take a moment.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _PIECES * _PIECE:
                digest.update(file.read())
                continue
            for number in range(_PIECES):
                file.seek(number * (size - _PIECE) // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()


@dataclass(frozen=True)
class ModelInfo:
    """A model that has a name."""

    name: str  # what the option --model takes
    path: Path | None  # its folder, ``None`` when it is not on this machine
    kind: str  # "mini" or "full", as its ``model_index.json`` says
    bytes: int  # disk it takes, 0 when it is not here
    available: bool  # whether it can be used without a network


def mini_folder() -> Path:
    """The checkpoint that comes with this program."""
    return ASSETS / "mini"


def local_model(name: str | Path) -> Path:
    """The pipeline folder of a model that is here: "mini", or a folder with a ``model_index.json``.

    Raises:
        InputError: there is no such model; the sentence says what to do.
    """
    if str(name) == "mini":
        if model_index(mini_folder()) is None:
            raise InputError(
                f"the mini checkpoint is missing in {mini_folder()}; check out the whole repository again."
            )
        return mini_folder()
    try:
        folder = Path(name).expanduser()
    except RuntimeError as error:  # the home of nobody
        raise InputError(f"{name} is no folder here; give its whole path.") from error
    if model_index(folder) is not None:
        return folder
    raise InputError(_why_not(folder))


def _why_not(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} is neither a folder nor one of the models {', '.join(NAMES)}."
    if not folder.is_dir():
        return f"{folder} is a file; give the folder of a converted checkpoint, or one of {', '.join(NAMES)}."
    if os.path.lexists(folder / MODEL_INDEX):
        return str(_index_trouble(folder))
    if all(
        (folder / component / CONFIG).is_file()
        for component in ("unet", "vae", "appearance_encoder", "controlnet")
    ):
        return f"{folder} has the networks of a checkpoint but no {MODEL_INDEX}; convert or copy it again."
    if looks_published(folder):
        return (
            f"{folder} holds the published files, which must be converted once:"
            f" `python -m magicanimate convert {folder} NEW_FOLDER`."
        )
    return (
        f"{folder} has no model_index.json of a MagicAnimate pipeline; give a converted checkpoint's folder."
    )


def _index_trouble(folder: Path) -> InputError:
    try:
        read_model_index(folder)
    except InputError as error:
        return error
    return InputError(f"{folder} changed while it was looked at; try again.")


def describe_models() -> list[ModelInfo]:
    """The models with names, whether they are here or not."""
    return [_describe(name, folder) for name, folder in (("mini", mini_folder()), ("full", full_folder()))]


def _describe(name: str, folder: Path) -> ModelInfo:
    index = model_index(folder)
    if index is None:
        return ModelInfo(name, None, name, 0, False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ModelInfo(name, folder, str(index.get("kind", name)), size, True)
