"""The released DensePose weights: fetched once or given, converted once, checked whenever they are loaded.

detectron2's model zoo publishes a pickle, ``{"model": {name: array}, "__author__": ...}``. An unpickler
builds whatever a pickle names, and so can run code; the one here knows the few names that arrays need and
refuses every other. What is loaded later is a safetensors copy with a checksum over names and numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densepose_tools.rcnn import Widths
from magicanimate.checkpoints.disk import HOME_VARIABLE, home, human_bytes, require_free
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
        file: where they are published.
        widths: widths of the network they belong to.
    """

    file: WebFile
    widths: Widths


RELEASED = Release(
    WebFile(
        url=f"https://dl.fbaipublicfiles.com/densepose/{NAME}/165712039/model_final_162be9.pkl",
        nbytes=255_757_821,
        blob="b8a7382001b16e453bad95ca9dbc68ae8f2b839b304cf90eaf5c27fbdb4dae91",
    ),
    Widths(),
)
"""The file of detectron2's model zoo. Its name does not contain its SHA-256; size and checksum are those that
several public projects state for it."""

_CHECKSUM, _SOURCE = "tensors_sha256", "source_sha256"
"""Keys in the header of the converted file."""

_IGNORED = ("pixel_mean", "pixel_std")
_IGNORED_PREFIX = "proposal_generator.anchor_generator.cell_anchors"
"""Constants that some versions of detectron2 store among the weights."""

_PREFIX = "module."
"""Prefix of every name if the network was saved from a parallel wrapper."""

# What a pickle that is cut off or changed makes numpy and pickle raise, besides UnpicklingError.
_DAMAGED = (
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    ImportError,
)


def folder() -> Path:
    """The folder of DensePose's weights, which may not exist yet."""
    return home() / "densepose"


def bytes_to_fetch(release: Release = RELEASED) -> int:
    """Number of bytes to download before the released weights can be used; 0 if they are there."""
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
) -> Path:
    """The path of the weights as safetensors; they are downloaded and converted if necessary.

    Args:
        source: a converted ``.safetensors``, or the released ``.pkl``; downloaded when ``None``.
        offline: do not download anything.
        release: what to download.
        on_progress: called with the progress of "download" (in bytes) and "convert".
        should_stop: polled often.
        retry_delays: see `magicanimate.checkpoints.download`.

    Raises:
        Unreachable: the weights are missing, and cannot or must not be downloaded.
        InputError: the file or the disk cannot be used.
        Cancelled: ``should_stop()`` returned true; the download can be resumed.
    """
    # Checked when it is loaded.
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
        # Two programs that start together would otherwise download 256 MB twice.
        with _turn(FileLock(folder() / "weights.lock"), stop):
            if source is None and converted.exists():  # another program made it meanwhile
                return converted
            released = source or _fetch(file, on_progress, stop, retry_delays)
            digest = file.blob if source is None else _sha256(source)
            if digest != file.blob:
                log.warning("%s is not the released file; it is used all the same", source)
                # Another file than the released one gets a name of its
                # own, and never takes the place of the released one.
                converted = folder() / f"{digest[:16]}.safetensors"
            if not converted.exists():
                convert(
                    released,
                    converted,
                    digest=digest,
                    widths=release.widths,
                    on_progress=on_progress,
                )
            if source is None:
                # Only our own download; a file that the user gave stays.
                released.unlink()
            return converted
    except (PermissionError, FileExistsError) as error:
        raise InputError(
            f"{error.filename or folder()} cannot be written; set {HOME_VARIABLE} to a folder that can."
        ) from error


@contextlib.contextmanager
def _turn(lock: BaseFileLock, should_stop: ShouldStop) -> Iterator[None]:
    """Hold a lock, after waiting for other programs that hold it.

    Raises:
        Cancelled: ``should_stop()`` returned true while waiting.
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
) -> Path:
    target = folder() / Path(file.url).name
    if target.exists():
        return target
    before = partial_bytes(target)
    require_free(
        folder(),
        # The pickle and its converted copy exist side by side for a moment.
        2 * file.nbytes - before,
        what=f"DensePose ({human_bytes(file.nbytes)} to download and its converted copy)",
        fix=f"free some, or set {HOME_VARIABLE} to a folder on another disk",
    )
    start = time.monotonic()

    def report(count: int) -> None:
        if on_progress is not None:
            rate = (count - before) / max(time.monotonic() - start, 1e-3)
            # By the rate of this download; what was there before took no time.
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
) -> None:
    """Convert a released pickle to safetensors with a checksum; the file appears when it is complete.

    Args:
        source: the pickle.
        dest: the file to write.
        digest: SHA-256 of the source, stored in the header.
        widths: widths of the network.
        on_progress: called with the progress of "convert", in bytes.

    Raises:
        InputError: the pickle cannot be used, its weights are not the network's, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    total = source.stat().st_size if source.exists() else 0
    report = on_progress or (lambda _: None)
    report(Progress("convert", 0, total))
    tensors = read_published(source)
    _check_names(source, {name: array.shape for name, array in tensors.items()}, widths)
    fix = f"free some, or set {HOME_VARIABLE} to a folder on another disk"
    nbytes = sum(array.nbytes for array in tensors.values())
    require_free(dest.parent, nbytes, what="the converted copy of DensePose", fix=fix)
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
    """Build the network from a converted file, after checking names, shapes and checksum.

    Raises:
        InputError: the file is not one that ``convert`` made, or is damaged.
    """
    import torch

    from densepose_tools.rcnn.network import DensePoseRCNN

    state = read_converted(path, widths=widths)
    with torch.device("meta"):
        # On the meta device no memory is allocated for weights that are replaced at once.
        network = DensePoseRCNN(widths)
    network.load_state_dict(
        {name: torch.from_numpy(array).to(device) for name, array in state.items()}, assign=True
    )
    return network.eval().requires_grad_(False)


def read_converted(path: Path, *, widths: Widths = RELEASED.widths) -> dict[str, np.ndarray]:
    """Read a file of `convert`: name -> array.

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
    # Against damage on the disk, which safetensors itself does not notice.
    if metadata.get(_CHECKSUM) != _checksum(tensors):
        raise InputError(
            f"{path} is damaged or was not made by this program; delete it, then it is made anew."
        )
    return tensors


def _check_names(path: Path, shapes: Mapping[str, tuple[int, ...]], widths: Widths) -> None:
    """Check that weights have exactly the names and shapes of the network's."""
    import torch

    from densepose_tools.rcnn.network import DensePoseRCNN

    with torch.device("meta"):
        needed = {name: tuple(value.shape) for name, value in DensePoseRCNN(widths).state_dict().items()}
    missing = [name for name in needed if name not in shapes]
    extra = [name for name in shapes if name not in needed]
    # The first name is enough to tell what kind of file it is.
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
    """SHA-256 of names and contents, in the order of the names."""
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


def read_published(path: Path) -> dict[str, np.ndarray]:
    """Read the weights of a file of detectron2's model zoo, without executing anything in it.

    Args:
        path: ``model_final_162be9.pkl`` or one like it.

    Returns:
        Name -> float32 array; names without ``module.`` and without detectron2's constants.

    Raises:
        InputError: the file is missing, damaged, asks for anything but arrays, or holds no such weights.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    except _Refused as error:
        raise InputError(
            f"{path} holds a Python object, {error}, that could run code, and was not loaded; use the file "
            "as released."
        ) from error
    except (pickle.UnpicklingError, *_DAMAGED) as error:
        raise InputError(f"{path} is not a pickle of weights or is damaged; download it again.") from error
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not model:
        raise InputError(f'{path} has no "model" with weights in it; use the file as released.')
    return {
        name: _float32(path, name, value)
        for name, value in ((str(key).removeprefix(_PREFIX), value) for key, value in model.items())
        if name not in _IGNORED and not name.startswith(_IGNORED_PREFIX)
    }


def _float32(path: Path, name: str, value: Any) -> np.ndarray:
    # The unpickler allows other containers, too, which are no weights.
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise InputError(
            f"{path}: {name} is not an array of floating-point numbers; use the file as released."
        )
    # Copied if need be: pickled arrays may be views or of another precision.
    array = np.ascontiguousarray(value, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name} holds NaN or infinity; download the file again.")
    return array


class _Refused(pickle.UnpicklingError):
    """The pickle refers to something that is not allowed."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can only build plain containers and numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """``codecs.encode`` as pickles of older protocols use it for bytes."""
    if encoding != "latin1":
        raise _Refused(f"bytes in {encoding}")
    return text.encode(encoding)


def _new_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """``numpy.core.multiarray._reconstruct``: the empty array whose content the pickle then sets."""
    if kind is not np.ndarray or shape != (0,):
        raise _Refused(f"an array of kind {kind} and shape {shape}")
    return np.ndarray(shape, dtype=code.decode("ascii"))


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
}
