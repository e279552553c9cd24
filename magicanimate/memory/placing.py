"""Bringing the networks of a pipeline to a device the way a memory profile wants them."""

from __future__ import annotations

import logging

import torch
from diffusers import DiffusionPipeline, ModelMixin

from magicanimate.acceleration.compiled import compile_blocks, undo_compilation
from magicanimate.memory.need import DENOISERS
from magicanimate.memory.profiles import TILE, MemoryProfile
from magicanimate.models.autoencoder import set_sliced

log = logging.getLogger(__name__)

EIGHT_BIT = torch.float8_e4m3fn


def place(
    pipe: DiffusionPipeline, profile: MemoryProfile, *, device: str, before: MemoryProfile | None = None
) -> None:
    """Move and prepare the networks.

    Args:
        pipe: has `DENOISERS` and "vae" among its components.
        profile: how.
        device: where they compute.
        before: the profile that they are prepared for already; not one that ``profile`` undoes.

    Raises:
        ValueError: ``profile`` undoes what was done for ``before``.
    """
    if before is not None and profile.undoes(before):
        raise ValueError(f"networks placed for {before.name!r} must be loaded again for {profile.name!r}")
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for name in networks.keys() & set(DENOISERS):
        if not profile.compilable:
            undo_compilation(networks[name])
        if profile.eight_bit:
            store_in_eight_bits(networks[name])
        if profile.offload and not (before and before.offload):
            # Without a stream: those that fetch the next block early learn the order in the first forward
            # and want every block in it once, but the up blocks run once for each guidance half.
            networks[name].enable_group_offload(torch.device(device), num_blocks_per_group=1)
    for name, network in networks.items():
        if not (profile.offload and name in DENOISERS):
            network.to(device)
    set_sliced(networks["vae"], TILE if profile.sliced else None)


def compile_denoisers(pipe: DiffusionPipeline) -> None:
    """Compile the blocks of the networks that run in every step."""
    blocks = sum(compile_blocks(pipe.components[name]) for name in DENOISERS if pipe.components.get(name))
    log.info("torch.compile: %d blocks, compiled when they first run", blocks)


def bytes_on(pipe: DiffusionPipeline, device: str) -> int:
    """Bytes of the pipeline's weights that are on a device."""
    wanted = torch.device(device)
    return sum(
        parameter.nbytes
        for part in pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
        if parameter.device.type == wanted.type and wanted.index in (None, parameter.device.index)
    )


def store_in_eight_bits(network: ModelMixin) -> None:
    """Keep the weights of linear layers and convolutions as float8; they compute as before."""
    if not any(parameter.dtype == EIGHT_BIT for parameter in network.parameters()):
        network.enable_layerwise_casting(EIGHT_BIT, compute_dtype=network.dtype)
