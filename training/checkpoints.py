"""Checkpoints of a run, written atomically; only the newest are kept.

A file is ``torch.save`` of a dictionary: ``step``; ``parameters``, the trained ones as ``<network>.<key>`` ->
tensor; ``averages``, their exponential moving average; ``optimizer``, its state dict; ``mean_loss``; and
``scaler``, the state of the loss scaling with fp16.

accelerate's ``save_state`` is not used, since it stores the frozen networks, too: gigabytes with Stable
Diffusion's.
"""

from __future__ import annotations

import logging
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from magicanimate.checkpoints.disk import human_bytes
from magicanimate.errors import InputError
from magicanimate.files import require_ordinary, whole_file

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
_PARTS = {"step", "parameters", "averages", "optimizer"}
DAMAGED = (
    *(RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError, ArithmeticError),
    *(AssertionError, MemoryError, struct.error, pickle.UnpicklingError),
)
"""What ``torch.load`` raises on a file that is cut off or changed."""


def checkpoints_of(folder: Path) -> list[Path]:
    """The checkpoints of a run's folder, newest first."""
    return sorted((folder / FOLDER).glob("step_*.pt"), reverse=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run's folder, ``None`` if it has none."""
    return next(iter(checkpoints_of(folder)), None)


def read_newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run, and its state on the CPU; ``None`` if there is none.

    A damaged one, for instance after a power cut, is named in the log, and the one before it is used.

    Raises:
        InputError: there are checkpoints and none of them can be read.
    """
    found = checkpoints_of(folder)
    for path in found:
        try:
            return path, read_checkpoint(path)
        except InputError as error:
            log.warning("%s The one before it is used, if there is one.", error)
    if found:
        raise InputError(
            f"None of the checkpoints in {folder / FOLDER} can be read; restore one, or delete them to begin "
            "anew."
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `write_checkpoint` was given, on the CPU.

    Its tensors are memory-mapped, except on Windows, where a mapped file could not be deleted. So a stage
    that starts from another's averages does not read its optimizer states, and processes of one machine share
    what they read.

    Raises:
        InputError: the file is damaged or holds something else.
    """
    try:
        require_ordinary(path)
        # weights_only: a checkpoint from elsewhere must not be able to run code.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=os.name != "nt")
    except DAMAGED as error:
        raise InputError(f"The checkpoint {path} is damaged or cut off.") from error
    if not isinstance(state, dict) or not state.keys() >= _PARTS:
        raise InputError(f"The checkpoint {path} lacks what a training needs to go on.")
    return state


def write_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write a checkpoint under a temporary name, rename it when it is on the disk, then delete older ones.

    Args:
        folder: the run's folder.
        state: see the top of this file; ``state["step"]`` gives the file its name.
        keep: how many of the newest checkpoints stay, 1 or more.

    Returns:
        The checkpoint's path.

    Raises:
        InputError: it cannot be written, usually because the disk is full; older ones are untouched.
    """
    checkpoints = folder / FOLDER
    checkpoints.mkdir(parents=True, exist_ok=True)
    path = checkpoints / f"step_{state['step']:07d}.pt"
    try:
        with whole_file(path, durable=True) as partial, partial.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a failed write into the latter
        older = newest_checkpoint(folder)
        # Told because the next question is whether anything was lost.
        safe = f"{older.name} is safe" if older else "there is no earlier one"
        raise InputError(
            f"{path} cannot be written ({_reason(error)}): it needs {human_bytes(_size(state))}, {safe};"
            " free some room and run the same command again."
        ) from error
    # Only after the new one is complete, so that there is one at every moment.
    for old in checkpoints_of(folder)[keep:]:
        old.unlink()
    return path


def _reason(error: BaseException) -> str:
    """The operating system's message, from wherever it is in the chain of exceptions."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return link.strerror
        link = link.__cause__ or link.__context__
    return str(error).split("\n")[0]


def _size(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, Mapping):
        return sum(_size(value) for value in state.values())
    return sum(_size(value) for value in state) if isinstance(state, list | tuple) else 0


def load_averages(networks: Mapping[str, nn.Module], folder: Path, *, partly: bool = False) -> int:
    """Load a run's averaged weights into ``networks``, named as in its stage; returns the run's step.

    Args:
        networks: the networks to fill.
        folder: the run's folder.
        partly: accept that the run trained only some parameters; the others keep their values.

    Raises:
        FileNotFoundError: the run has no checkpoint yet.
        KeyError: the run has no weights for a parameter.
    """
    found = read_newest(folder)
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint; run that stage first")
    state = found[1]
    with torch.no_grad():
        for name, network in networks.items():
            for key, p in network.named_parameters():
                if not partly or f"{name}.{key}" in state["averages"]:
                    p.copy_(state["averages"][f"{name}.{key}"])
    return state["step"]
