"""All speed-ups around the paper's networks, in the order in which they go around each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from magicanimate.acceleration.control_cache import share_overlaps
from magicanimate.acceleration.deep_cache import cache_deep_features
from magicanimate.acceleration.encoder_cache import encode_ahead, reuse_bank
from magicanimate.acceleration.guidance import branches_in_turn, guide_in_interval
from magicanimate.acceleration.options import OptimizationConfig
from magicanimate.acceleration.process_group import ProcessGroup, share_windows
from magicanimate.acceleration.window_batch import batch_windows
from magicanimate.models.hybrid_attention import HybridSelfAttention
from magicanimate.models.unet import VideoUNet
from magicanimate.presets import Approximations
from magicanimate.sampling import Networks
from magicanimate.watching import WindowWatch


def accelerated(
    paper: Callable[..., Networks],
    unet: VideoUNet,
    readers: Mapping[str, HybridSelfAttention],
    text: torch.Tensor,
    timesteps: torch.Tensor,
    *,
    optimization: OptimizationConfig,
    approximations: Approximations,
    group: ProcessGroup,
    watch: WindowWatch,
) -> Networks:
    """The paper's networks with what makes them quicker around them; each layer can be taken out.

    Args:
        paper: `magicanimate.sampling.paper_networks` but for ``text`` and ``visible``.
        readers: the UNet's hybrid self-attentions.
        text: ``B L D``, [unconditional, conditional] with guidance.
        timesteps: of all steps, on the CPU.
        optimization, approximations: which layers are wanted.
        group: the processes that share the windows.
        watch: counts windows and asks whether to stop.
    """
    number = len(timesteps)
    guided_at = {timestep.item() for i, timestep in enumerate(timesteps) if approximations.guides(i, number)}

    def guided(timestep: torch.Tensor) -> bool:
        return timestep.item() in guided_at

    networks, conditional = paper(text=text), paper(text=text[-1:])
    if len(text) == 2 and optimization.branches_in_turn:
        # Nothing tells the branches apart before a block reads the photo, unless their texts do.
        alike = torch.equal(text[0], text[1]) and not any(name.startswith("down_blocks") for name in readers)
        branches = [paper(text=text[:1], visible=[False]), conditional]
        networks = branches_in_turn(networks, branches, unet, share_down=alike)
    if len(text) == 2 and len(guided_at) < number:
        networks = guide_in_interval(networks, conditional, guided)
    if optimization.window_batch > 1:
        networks = batch_windows(networks, optimization.window_batch)
    if optimization.share_residuals:
        networks = share_overlaps(networks)
    if approximations.deep_reuse:
        reuse = approximations.deep_reuse
        networks = cache_deep_features(networks, unet, readers, text, reuse=reuse, guided=guided)
    networks = watch.around(networks)
    if approximations.encoder_reuse:
        networks = reuse_bank(networks, reuse=approximations.encoder_reuse)
    if group.size > 1:
        networks = share_windows(networks, group)
    if optimization.banks_ahead:
        networks = encode_ahead(networks, timesteps)
    return networks
