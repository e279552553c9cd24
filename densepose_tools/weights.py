"""The released DensePose weights: fetched once or given, converted once, checked whenever loaded."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densepose_tools.rcnn.widths import Widths, released
from magicanimate.checkpoints.disk import HOME_VARIABLE, free_bytes, home, human_bytes, require_free
from magicanimate.checkpoints.download import RETRY_DELAYS, Unreachable, WebFile, download, partial_bytes
from magicanimate.config import OnProgress, Progress, ShouldStop
from magicanimate.errors import Cancelled, InputError
from magicanimate.files import require_ordinary, sha256_of

if TYPE_CHECKING:
    import torch
    from filelock import BaseFileLock

    from densepose_tools.rcnn.network import DensePoseRCNN

log = logging.getLogger(__name__)

NAME = "densepose_rcnn_R_50_FPN_s1x"


@dataclass(frozen=True)
class Release:
    """Released weights.

    Attributes:
        file: where they are.
        widths: of the network they belong to.
    """

    file: WebFile
    widths: Widths


RELEASED = Release(
    WebFile(
        url=f"https://dl.fbaipublicfiles.com/densepose/{NAME}/165712039/model_final_162be9.pkl",
        nbytes=255_757_821,
        blob="b8a7382001b16e453bad95ca9dbc68ae8f2b839b304cf90eaf5c27fbdb4dae91",
    ),
    released(),
)
"""The file of detectron2's model zoo. (Its name does not carry its SHA-256; size and checksum are those that
several public projects state for it.)"""

_CHECKSUM, _SOURCE = "tensors_sha256", "source_sha256"
"""Entries of the converted file's header."""


def folder() -> Path:
    """Where DensePose's weights lie, or will."""
    return home() / "densepose"


def bytes_to_fetch(release: Release = RELEASED) -> int:
    """How much has to be fetched before the released weights can be used; 0 if they are here."""
    target = folder() / Path(release.file.url).name
    if target.exists() or (folder() / f"{NAME}.safetensors").exists():
        return 0
    return release.file.nbytes - partial_bytes(target)


def ensure_weights(
    source: Path | None = None,
    *,
    offline: bool = False,
    release: Release = RELEASED,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    retry_delays: Sequence[float] = RETRY_DELAYS,
    free: Callable[[Path], int] = free_bytes,
) -> Path:
    """The weights as safetensors: found, or made from the released pickle, which is fetched if need be.

    Args:
        source: a ``.safetensors`` made here, or the released ``.pkl``; fetched when ``None``.
        offline: use what is here.
        release: what to fetch.
        on_progress: told of "download" (bytes) and "convert".
        should_stop: asked often.
        retry_delays: see ``magicanimate.checkpoints.download``.
        free: tells the free bytes at a path.

    Raises:
        Unreachable: nothing is here, and the network is away or forbidden.
        InputError: the file or the disk cannot be used.
        Cancelled: ``should_stop()`` said so; a download goes on from there.
    """
    if source is not None and source.suffix == ".safetensors":
        return source
    if source is not None:
        require_ordinary(source)
    converted = folder() / f"{NAME}.safetensors"
    if source is None and converted.exists():
        return converted
    from filelock import FileLock

    file, stop = release.file, should_stop or (lambda: False)
    if source is None and offline and not (folder() / Path(file.url).name).exists():
        raise Unreachable(
            f"DensePose's weights are not in {folder()} and fetching is forbidden; run once with a network, "
            "or give the released file."
        )
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with _turn(FileLock(folder() / "weights.lock"), stop):
            if source is None and converted.exists():  # another program made it meanwhile
                return converted
            pickle = source or _fetch(file, on_progress, stop, retry_delays, free)
            digest = file.blob if source is None else _sha256(source)
            if digest != file.blob:
                log.warning("%s is not the released file; it is used all the same", source)
                converted = folder() / f"{digest[:16]}.safetensors"
            if not converted.exists():
                convert(
                    pickle,
                    converted,
                    digest=digest,
                    widths=release.widths,
                    on_progress=on_progress,
                    free=free,
                )
            if source is None:
                pickle.unlink()
            return converted
    except (PermissionError, FileExistsError) as error:
        raise InputError(
            f"{error.filename or folder()} cannot be written; set {HOME_VARIABLE} to a folder that can."
        ) from error


@contextlib.contextmanager
def _turn(lock: BaseFileLock, should_stop: ShouldStop) -> Iterator[None]:
    """Hold the lock, after waiting for other programs that are at the same.

    Raises:
        Cancelled: ``should_stop()`` said so.
    """
    from filelock import Timeout

    told = False
    while True:
        try:
            lock.acquire(timeout=0.5)
            break
        except Timeout:
            if not told:
                log.info("another program is fetching DensePose's weights; waiting for it")
                told = True
            if should_stop():
                raise Cancelled from None
    try:
        yield
    finally:
        lock.release()


def _fetch(
    file: WebFile,
    on_progress: OnProgress | None,
    should_stop: ShouldStop,
    retry_delays: Sequence[float],
    free: Callable[[Path], int],
) -> Path:
    target = folder() / Path(file.url).name
    if target.exists():
        return target
    before = partial_bytes(target)
    require_free(
        folder(),
        2 * file.nbytes - before,
        what=f"DensePose ({human_bytes(file.nbytes)} to download and its converted copy)",
        fix=f"free some, or set {HOME_VARIABLE} to a folder on another disk",
        free=free,
    )
    start = time.monotonic()

    def report(count: int) -> None:
        if on_progress is not None:
            rate = (count - before) / max(time.monotonic() - start, 1e-3)
            left = (file.nbytes - count) / rate if rate > 0 else None
            on_progress(Progress("download", count, file.nbytes, left))

    return download(file, target, on_bytes=report, should_stop=should_stop, retry_delays=retry_delays)


def convert(
    source: Path,
    dest: Path,
    *,
    digest: str,
    widths: Widths,
    on_progress: OnProgress | None = None,
    free: Callable[[Path], int] = free_bytes,
) -> None:
    """Turn a released pickle into safetensors with a checksum, complete or not at all.

    Args:
        source: the pickle.
        dest: the file to write.
        digest: SHA-256 of the source, kept in the header.
        widths: of the network.
        on_progress: told of "convert", in bytes.
        free: tells the free bytes at a path.

    Raises:
        InputError: the pickle cannot be used, lacks a weight or has one too many, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from densepose_tools.published import read_published

    total = source.stat().st_size if source.exists() else 0
    report = on_progress or (lambda _: None)
    report(Progress("convert", 0, total))
    tensors = read_published(source)
    _check_names(source, {name: array.shape for name, array in tensors.items()}, widths)
    fix = f"free some, or set {HOME_VARIABLE} to a folder on another disk"
    nbytes = sum(array.nbytes for array in tensors.values())
    require_free(dest.parent, nbytes, what="the converted copy of DensePose", fix=fix, free=free)
    metadata = {"format": "pt", _SOURCE: digest, _CHECKSUM: _checksum(tensors)}
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, partial, metadata=metadata)
        os.replace(partial, dest)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{dest} cannot be written ({error}); free some disk and try again.") from error
    finally:
        partial.unlink(missing_ok=True)
    report(Progress("convert", total, total))


def load_network(
    path: Path, *, device: str | torch.device = "cpu", widths: Widths = RELEASED.widths
) -> DensePoseRCNN:
    """Build the network with the weights of a converted file, after checking names, shapes and checksum.

    Raises:
        InputError: the file is not one that ``convert`` made, or is damaged.
    """
    import torch

    from densepose_tools.rcnn.network import DensePoseRCNN

    state = read_converted(path, widths=widths)
    with torch.device("meta"):
        network = DensePoseRCNN(widths)
    network.load_state_dict(
        {name: torch.from_numpy(array).to(device) for name, array in state.items()}, assign=True
    )
    return network.eval().requires_grad_(False)


def read_converted(path: Path, *, widths: Widths = RELEASED.widths) -> dict[str, np.ndarray]:
    """Name -> array of a file that ``convert`` made.

    Raises:
        InputError: see ``load_network``.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"{path} does not exist; check the path.")
    try:
        with safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file; delete it, then it is made anew."
        ) from error
    _check_names(path, {name: array.shape for name, array in tensors.items()}, widths)
    if metadata.get(_CHECKSUM) != _checksum(tensors):
        raise InputError(
            f"{path} is damaged or was not made by this program; delete it, then it is made anew."
        )
    return tensors


def _check_names(path: Path, shapes: Mapping[str, tuple[int, ...]], widths: Widths) -> None:
    """Refuse weights unless they are exactly those of the network."""
    import torch

    from densepose_tools.rcnn.network import DensePoseRCNN

    with torch.device("meta"):
        needed = {name: tuple(value.shape) for name, value in DensePoseRCNN(widths).state_dict().items()}
    missing = [name for name in needed if name not in shapes]
    extra = [name for name in shapes if name not in needed]
    for names, verb in ((missing, "lacks"), (extra, "holds")):
        if names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            place = "which DensePose needs" if verb == "lacks" else "for which DensePose has no place"
            raise InputError(f"{path} {verb} {names[0]}{others}, {place}; use the released {NAME}.")
    for name, shape in needed.items():
        if tuple(shapes[name]) != shape:
            raise InputError(
                f"{path}: {name} has shape {tuple(shapes[name])}, DensePose needs {shape}; use the "
                f"released {NAME}."
            )


def _checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names and content, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
