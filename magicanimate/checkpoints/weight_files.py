"""Read weight files one tensor at a time, and write them again under the names of a network.

Safetensors, pickles (tensors only) and shards with an index are read. Opening a file reads its header only; a
tensor's bytes are mapped from disk on access. A file that is no valid weight file raises an `InputError` that
names it and says what to do.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from diffusers.utils import logging
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from magicanimate.checkpoints.layout import (
    INDEX,
    INDICES,
    PICKLES,
    SAFETENSORS,
    convert_key,
    is_positional,
    published_key,
    unwrap,
)
from magicanimate.device import dtype_argument
from magicanimate.errors import InputError, first_line
from magicanimate.files import Unreadable, read_json_object, require_ordinary, write_json

_AGAIN = "download it again"
_LFS = b"version https://git-lfs.github.com/spec"
_HEAD_BYTES = 512
_ZIP_MAGIC = b"PK\x03\x04"  # torch.save since 1.6
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number older ones pickled first
# What torch raises on a pickle that is cut off or names impossible storages, found by cutting and flipping.
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    struct.error,
)
_WANTED = re.compile(r"GLOBAL ([\w.]+)")  # torch's message on a name it refuses
_NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
UNET_PREFIX = "model.diffusion_model."
# Keys of each network in a file that holds several; a VAE of its own has none of these in front.
_PREFIXES = {
    "unet": UNET_PREFIX,
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_TEXT_MODEL = "text_model."


class WeightFile(Mapping[str, torch.Tensor]):
    """Key -> tensor of one weight file, on the CPU.

    A tensor is a view of the mapped file: its bytes are read when they are used. (Pickles from before
    torch 1.6 cannot be mapped and are read as a whole.)
    """

    def __init__(self, path: Path):
        self.path = path

    def file_of(self, key: str) -> Path:
        """The file that holds a key; for shards not the same as `path`."""
        return self.path


class _Safetensors(WeightFile):
    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self._file = safe_open(path, framework="pt", device="cpu")
            self._keys = tuple(self._file.keys())
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(
                f"{path} is not a complete safetensors file ({first_line(error)}); {_AGAIN}."
            ) from error

    def __getitem__(self, key: str) -> torch.Tensor:
        if key not in self._keys:
            raise KeyError(key)
        try:
            return self._file.get_tensor(key)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: cannot read {key} ({first_line(error)}); {_AGAIN}.") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


class HeldTensors(WeightFile):
    """Tensors of a file that are in memory already, under any names."""

    def __init__(self, path: Path, tensors: dict[str, torch.Tensor]):
        super().__init__(path)
        self._tensors = tensors

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class SomeWeights(WeightFile):
    """The tensors of a file whose keys are wanted, as if it held nothing else."""

    def __init__(self, file: WeightFile, wanted: Callable[[str], bool]):
        super().__init__(file.path)
        self._file, self._keys = file, tuple(filter(wanted, file))

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._file[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def file_of(self, key: str) -> Path:
        return self._file.file_of(key)


class _Pickle(HeldTensors):
    def __init__(self, path: Path, head: bytes):
        state = unwrap(_load_pickle(path, head))
        super().__init__(path, {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)})
        if not self._tensors:
            raise InputError(f"{path} holds no weights; check that it is the right file.")


class _Sharded(WeightFile):
    """Several weight files behind one ``*.index.json``, opened when first needed."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._where = _read_index(path)
        self._shards: dict[str, WeightFile] = {}

    def _shard(self, key: str) -> WeightFile:
        name = self._where[key]
        if name not in self._shards:
            self._shards[name] = open_weights(self.path.parent / name)
        if key not in self._shards[name]:
            raise InputError(
                f"{self._shards[name].path} lacks {key}, which {self.path.name} promises; {_AGAIN}."
            )
        return self._shards[name]

    def __getitem__(self, key: str) -> torch.Tensor:
        return self._shard(key)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def file_of(self, key: str) -> Path:
        return self._shard(key).path


def open_weights(path: str | Path) -> WeightFile:
    """Open a weight file for lazy reading: ``.safetensors``, a pickle, or the ``.index.json`` of shards.

    A training checkpoint's ``state_dict`` is unwrapped; entries that are not tensors are left out.

    Raises:
        InputError: the file is missing, empty, cut off, a placeholder, a web page, a pickle with anything
            but tensors in it, or of another type.
    """
    path = Path(path)
    # The first bytes tell a placeholder or a web page from weights, whatever the name says.
    head = _read_head(path)
    _refuse_placeholders(path, head)
    if path.name.endswith(INDICES):
        return _Sharded(path)
    if path.suffix in SAFETENSORS:
        return _Safetensors(path)
    if path.suffix in PICKLES:
        return _Pickle(path, head)
    allowed = ", ".join(SAFETENSORS + PICKLES + (INDEX,))
    raise InputError(f"{path} is not a weight file by its name; expected one of {allowed}.")


def _read_head(path: Path) -> bytes:
    try:
        if path.exists():
            require_ordinary(path)
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; check the path.") from error
    except Unreadable as error:
        raise InputError(f"{path} cannot be opened ({error.reason}); check its path.") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path} cannot be opened ({reason}); check its path and permissions.") from error


def _refuse_placeholders(path: Path, head: bytes) -> None:
    """Refuse what is often found in place of a weight file: Git LFS pointers, web pages."""
    if not head:
        raise InputError(f"{path} is empty; {_AGAIN}.")
    if head.startswith(_LFS):
        raise InputError(
            f"{path} is a git-lfs pointer, not the weights themselves; run `git lfs pull` in its repository"
            " or download the file from its web page."
        )
    # The length in front of a safetensors header may begin with the same byte.
    if head.lstrip()[:1] == b"<" and head[8:9] != b"{":
        raise InputError(f"{path} is a web page, not weights; {_AGAIN}, through the page's download link.")


def _load_pickle(path: Path, head: bytes) -> Mapping[str, object]:
    """The pickle's mapping, built from tensors and plain containers only.

    ``weights_only`` refuses every other name a pickle asks for, so nothing in the file can run.
    """
    zipped = head.startswith(_ZIP_MAGIC)
    if not zipped and not head.startswith(_OLD_TORCH_MAGIC):
        raise InputError(f"{path} is not a PyTorch weight file; {_AGAIN}, or check that it is the right one.")
    if zipped and not zipfile.is_zipfile(path):
        raise InputError(f"{path} is cut off; {_AGAIN}.")
    try:
        # Mapped where possible: a 4 GB file then takes memory tensor by tensor.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # torch names the object that it refused, which the user should know.
        culprit = _WANTED.search(str(error))
        if culprit is None:
            raise InputError(f"{path} is damaged; {_AGAIN}.") from error
        raise InputError(
            f"{path} holds a Python object, {culprit[1]}, that could run code, and was not loaded; get the"
            " weights from a source you trust, as .safetensors if there is one."
        ) from error
    except _DAMAGED as error:
        raise InputError(f"{path} is damaged or cut off; {_AGAIN}.") from error
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise InputError(f"{path} holds a {kind} instead of named weights; check that it is the right file.")
    return state


def _read_index(path: Path) -> dict[str, str]:
    try:
        where = read_json_object(path)["weight_map"]
        names = {str(key): str(name) for key, name in where.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not an index of weight shards; {_AGAIN}.") from error
    for name in set(names.values()):
        # An index from the network could otherwise name any file of the user.
        if Path(name).name != name:
            raise InputError(
                f"{path} points outside its folder ({name}) and was not followed; get it from a"
                " source you trust."
            )
    return names


def open_single_file(component: str, path: Path, config: dict[str, Any]) -> WeightFile:
    """The weights of one network ("unet", "vae" or "text_encoder") out of a single file.

    ``config`` is the network's, as its ``config.json`` would say it.

    Raises:
        InputError: the file cannot be read or does not hold such a network.
    """
    file, prefix = open_weights(path), _PREFIXES[component]
    own = [key for key in file if key.startswith(prefix)]
    if not own and component == "vae" and any(key.startswith("encoder.") for key in file):
        own = list(file)
    if not own:
        raise InputError(
            f"{path} holds no {component} (no key begins with {prefix}); give a checkpoint of Stable "
            "Diffusion 1.5 as released."
        )
    tensors = {key: file[key] for key in own}
    if component == "text_encoder":
        names = {key: key.removeprefix(prefix) for key in tensors}
        # Some merges leave "text_model." out, as transformers does since its version 5.
        inner = "" if any(name.startswith(_TEXT_MODEL) for name in names.values()) else _TEXT_MODEL
        return HeldTensors(path, {f"{inner}{names[key]}": value for key, value in tensors.items()})
    cls, verbosity = _NETWORKS[component], logging.get_verbosity()
    try:
        logging.set_verbosity_error()  # a warning says that no modules are kept in float32
        with tempfile.TemporaryDirectory(prefix="magicanimate-") as folder:
            text = json.dumps(config | {"_class_name": cls.__name__})
            (Path(folder) / "config.json").write_text(text, encoding="utf-8")
            # Without a dtype diffusers would convert everything to float32.
            dtype = next((value.dtype for value in tensors.values() if value.is_floating_point()), None)
            # diffusers knows the names of the original program; it writes them anew in its own.
            network = cls.from_single_file(
                tensors, config=folder, local_files_only=True, **{dtype_argument(): dtype}
            )
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError, IndexError, OSError) as error:
        reason = first_line(error)
        raise InputError(
            f"{path} cannot be taken for the {component} of Stable Diffusion 1.5 ({reason}); check that "
            "it is the right file."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    return HeldTensors(path, network.state_dict())


SHARD_BYTES = 1_000_000_000
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Tick = Callable[[int], None]  # called with the bytes of each tensor done


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from: a file and the key it has there."""

    file: WeightFile
    key: str

    def read(self) -> torch.Tensor:
        """The tensor, as stored.

        Raises:
            InputError: the file breaks off here, or what it has is not plain numbers.
        """
        tensor = self.file[self.key]
        if tensor.layout != torch.strided or not tensor.is_floating_point():
            raise InputError(
                f"{self.file.path}: {self.key} is not a plain floating-point tensor ({tensor.dtype}); check"
                " that it is the right file."
            )
        return tensor


def match_network(
    component: str, network: nn.Module, files: Sequence[tuple[WeightFile, Callable[[str], bool]]]
) -> dict[str, Source]:
    """Pair every weight of a network, on the meta device, with its tensor in the published files.

    Each file comes with whether a key of the network belongs into it.

    Returns:
        Key of the network -> source, in the network's order; position tables are left out.

    Raises:
        InputError: a tensor is missing, left over, there twice or of another shape.
    """
    # Position tables follow from the architecture, and files may have others or none.
    expected = {key: value.shape for key, value in network.state_dict().items() if not is_positional(key)}
    found: dict[str, Source] = {}
    for file, belongs in files:
        for name in file:
            key = convert_key(component, name)
            if key is None:
                continue
            if key not in expected or not belongs(key):
                raise InputError(
                    f"{file.file_of(name)} holds {name}, for which the {component} has no place; check that"
                    " it is the right file."
                )
            if key in found:
                raise InputError(
                    f"{file.file_of(name)} holds both {found[key].key} and {name}, which are the same weight;"
                    " use the file as released."
                )
            found[key] = Source(file, name)
        _check_complete(component, file, [key for key in expected if belongs(key) and key not in found])
    for key, source in found.items():
        # Checked from the headers, before anything is written.
        shape = source.file[source.key].shape
        if shape != expected[key]:
            where, needed = source.file.file_of(source.key), tuple(expected[key])
            raise InputError(
                f"{where}: {source.key} has shape {tuple(shape)}, the {component} needs {needed};"
                " the file or its config.json belongs to another model."
            )
    return {key: found[key] for key in expected}


def _check_complete(component: str, file: WeightFile, missing: list[str]) -> None:
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(
            f"{file.path} lacks {published_key(component, missing[0])}{others}, which the {component} needs;"
            " check that it is the right file or download it again."
        )


def position_tables(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tables of a network's temporal layers, float32, computed from their shapes alone."""
    return {
        key: SinusoidalPositionalEmbedding(value.shape[-1], max_seq_length=value.shape[1]).pe
        for key, value in network.state_dict().items()
        if is_positional(key)
    }


def cast(tensor: torch.Tensor, dtype: torch.dtype | None, source: Source) -> torch.Tensor:
    """A tensor in another float format; ``None`` keeps it.

    Raises:
        InputError: it holds NaN or infinity, or does not fit the format.
    """
    if not _is_finite(tensor):
        where = source.file.file_of(source.key)
        raise InputError(f"{where}: {source.key} holds NaN or infinity; download the file again.")
    if dtype is None or tensor.dtype == dtype:
        return tensor.contiguous()
    # A value beyond the range of float16 becomes infinity without an error.
    smaller = tensor.to(dtype)
    if not _is_finite(smaller):
        where = source.file.file_of(source.key)
        raise InputError(f"{where}: {source.key} does not fit {dtype}; convert to float32 or bfloat16.")
    return smaller


def _is_finite(tensor: torch.Tensor) -> bool:
    # NaN comes through as both extremes; twenty times faster than asking every number.
    return tensor.numel() == 0 or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def stored_bytes(sources: Mapping[str, Source], dtype: torch.dtype | None) -> int:
    """Bytes that `write_weights` will write."""
    return sum(_nbytes(source, dtype) for source in sources.values())


def _nbytes(source: Source, dtype: torch.dtype | None) -> int:
    tensor = source.read()
    return tensor.numel() * (dtype or tensor.dtype).itemsize


def write_weights(
    folder: Path,
    sources: Mapping[str, Source],
    *,
    stem: str = "diffusion_pytorch_model",
    dtype: torch.dtype | None = None,
    tables: Mapping[str, torch.Tensor] | None = None,
    tick: Tick = lambda count: None,
) -> None:
    """Write a component's weights as safetensors, one shard in memory at a time.

    A new file begins at `SHARD_BYTES`; an index is added when there is more than one.

    Args:
        stem: file name without suffix: "diffusion_pytorch_model" or transformers' "model".
        dtype: float format to store; ``None`` stores each tensor as it is.
        tables: further small tensors for the first shard.
        tick: called with the bytes of every tensor; may raise to stop.

    Raises:
        InputError: a tensor cannot be read or stored, or the disk is full.
    """
    split = split_state_dict_into_shards_factory(
        dict(sources),
        get_storage_size=lambda source: _nbytes(source, dtype),
        filename_pattern=f"{stem}{{suffix}}.safetensors",
        max_shard_size=SHARD_BYTES,
    )
    # Position tables are small, so they do not count towards the size of the first shard.
    tensors = {key: table if dtype is None else table.to(dtype) for key, table in (tables or {}).items()}
    where: dict[str, str] = {}
    total = 0
    for name, keys in split.filename_to_tensors.items():
        for key in keys:
            tensors[key] = cast(sources[key].read(), dtype, sources[key])
            tick(tensors[key].nbytes)
        _save(tensors, folder / name)
        where |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
        tensors = {}
    if split.is_sharded:
        # Sorted, so that two conversions are equal byte by byte.
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be written ({error}); free some disk space and try again."
        ) from error
