"""Find a model by name ("mini", "full") or by its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from magicanimate import ASSETS
from magicanimate.checkpoints.disk import MODEL_INDEX, model_index, read_model_index
from magicanimate.checkpoints.layout import CONFIG, looks_published
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.errors import InputError

NAMES = ("mini", "full")


@dataclass(frozen=True)
class ModelInfo:
    """A model that has a name.

    Attributes:
        name: what `resolve_model` takes.
        path: its folder, ``None`` when it is not on this machine.
        kind: "mini" or "full", as its ``model_index.json`` says.
        bytes: disk it takes, 0 when it is not here.
        available: whether it can be used without a network.
    """

    name: str
    path: Path | None
    kind: str
    bytes: int
    available: bool


def mini_folder() -> Path:
    """The checkpoint that comes with this program."""
    return ASSETS / "mini"


def resolve_model(
    name: str | Path,
    *,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Path:
    """The pipeline folder of a model.

    Args:
        name: "mini", "full" (fetched and converted when it is not here yet), or a folder with a
            ``model_index.json``.
        offline: do not ask the network.
        on_progress, should_stop: while the full model is fetched and converted.

    Raises:
        InputError: there is no such model; the sentence says what to do.
        Cancelled: ``should_stop()`` said so.
    """
    if str(name) == "full":
        from magicanimate.checkpoints.hub import fetch_full

        return fetch_full(offline=offline, on_progress=on_progress, should_stop=should_stop)
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
    from magicanimate.checkpoints.disk import full_folder

    return [_describe(name, folder) for name, folder in (("mini", mini_folder()), ("full", full_folder()))]


def _describe(name: str, folder: Path) -> ModelInfo:
    index = model_index(folder)
    if index is None:
        return ModelInfo(name, None, name, 0, False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return ModelInfo(name, folder, str(index.get("kind", name)), size, True)
