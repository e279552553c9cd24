"""Write weights as safetensors: checked against the network first, then streamed shard by shard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.models.embeddings import SinusoidalPositionalEmbedding
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from magicanimate.checkpoints.layout import convert_key, is_positional, published_key
from magicanimate.checkpoints.reading import WeightFile
from magicanimate.errors import InputError
from magicanimate.files import write_json

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
    """Pair every weight of a network with its tensor in the published files.

    Args:
        component: one of `magicanimate.checkpoints.layout.COMPONENTS`.
        network: on the meta device.
        files: each with whether a key of the network belongs into that file.

    Returns:
        Key of the network -> source, in the network's order; position tables are left out.

    Raises:
        InputError: a tensor is missing, left over, there twice or of another shape.
    """
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


def _shards(
    sources: Mapping[str, Source], dtype: torch.dtype | None, limit: int
) -> Iterator[dict[str, Source]]:
    shard: dict[str, Source] = {}
    size = 0
    for key, source in sources.items():
        count = _nbytes(source, dtype)
        if shard and size + count > limit:
            yield shard
            shard, size = {}, 0
        shard[key] = source
        size += count
    yield shard


def write_weights(
    folder: Path,
    sources: Mapping[str, Source],
    *,
    stem: str = "diffusion_pytorch_model",
    dtype: torch.dtype | None = None,
    tables: Mapping[str, torch.Tensor] | None = None,
    tick: Tick = lambda count: None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a component's weights as safetensors, one shard in memory at a time.

    Args:
        folder: exists already.
        sources: key -> where its tensor is.
        stem: file name without suffix: "diffusion_pytorch_model" or transformers' "model".
        dtype: float format to store; ``None`` stores each tensor as it is.
        tables: further small tensors for the first shard.
        tick: told the bytes of every tensor; may raise to stop.
        shard_bytes: size at which a new file begins; an index is added when there is more than one.

    Raises:
        InputError: a tensor cannot be read or stored, or the disk is full.
    """
    shards = list(_shards(sources, dtype, shard_bytes))
    extra = {key: table if dtype is None else table.to(dtype) for key, table in (tables or {}).items()}
    where: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else stem
        tensors = dict(extra) if number == 1 else {}
        for key, source in shard.items():
            tensors[key] = cast(source.read(), dtype, source)
            tick(tensors[key].nbytes)
        _save(tensors, folder / f"{name}.safetensors")
        where |= dict.fromkeys(tensors, f"{name}.safetensors")
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": where}
        index["weight_map"] = dict(sorted(where.items()))
        write_json(folder / f"{stem}.safetensors.index.json", index)


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be written ({error}); free some disk space and try again."
        ) from error
