"""Read the released DensePose weights, a pickle of numpy arrays, without executing anything in it.

detectron2's model zoo keeps {"model": {name: array}, "__author__": ...}. An unpickler builds whatever a
pickle names, so this one knows the few names that arrays need and refuses every other.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magicanimate.errors import InputError

_IGNORED = ("pixel_mean", "pixel_std")
_IGNORED_PREFIX = "proposal_generator.anchor_generator.cell_anchors"
"""Constants that some versions of detectron2 store among the weights."""

_PREFIX = "module."
"""In front of every name if the network was saved from a parallel wrapper."""

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


def read_published(path: Path) -> dict[str, np.ndarray]:
    """The weights of a file of detectron2's model zoo.

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
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise InputError(
            f"{path}: {name} is not an array of floating-point numbers; use the file as released."
        )
    array = np.ascontiguousarray(value, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: {name} holds NaN or infinity; download the file again.")
    return array


class _Refused(pickle.UnpicklingError):
    """The pickle wants something that is not on the list."""


class _ArrayUnpickler(pickle.Unpickler):
    """Builds plain containers and numpy arrays, nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of the older protocols write bytes."""
    if encoding != "latin1":
        raise _Refused(f"bytes in {encoding}")
    return text.encode(encoding)


def _new_array(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """The empty array that a pickled one is filled into."""
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
