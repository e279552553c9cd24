"""Run what conditions the UNet less often: the ControlNet once a frame, the appearance encoder in some steps.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from torch import nn

from magicanimate.memory.profiles import CONTROL_CACHE_BYTES
from magicanimate.sampling import Bank, Networks, Residuals, Window

EMBEDDED_AT_ONCE = 4  # frames; the first layers work at the picture's full size


def share_residuals(networks: Networks) -> Networks:
    """Run the ControlNet once per frame and step: overlapping windows share its residuals."""
    still_to_come: Counter[int] = Counter()
    kept: dict[int, list[torch.Tensor]] = {}

    def fuse(
        outer: Networks, latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept.clear()
        still_to_come.clear()
        still_to_come.update(frame for window in windows for frame in window.frames)
        try:
            return networks.fuse(outer, latents, timestep, windows)
        finally:
            kept.clear()

    def control(frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor) -> Residuals:
        # Counted down window by window, so that what no later window needs is freed at once.
        still_to_come.subtract(frames)
        # A batch of windows may name a frame twice; dict.fromkeys keeps the order.
        new = [frame for frame in dict.fromkeys(frames) if frame not in kept]
        rows = [frames.index(frame) for frame in new]
        fresh: Residuals = []
        if new:
            # The latents of a frame are the same in all windows of a step, so any of its rows will do.
            some = noisy if new == frames else torch.stack([noisy[row] for row in rows])
            fresh = networks.control(new, some, timestep)
        if new == frames:
            residuals = fresh
        else:
            known = kept | {frame: [level[i] for level in fresh] for i, frame in enumerate(new)}
            residuals = [
                torch.stack(level) for level in zip(*(known[frame] for frame in frames), strict=True)
            ]
        for frame in set(frames):
            kept.pop(frame, None)
            if still_to_come[frame] > 0:
                # A view would keep the residuals of the whole window alive.
                kept[frame] = [level[frames.index(frame)].clone() for level in residuals]
        return residuals

    return replace(networks, control=control, fuse=fuse)


class CachedEmbeddings:
    """A ControlNet with its control images, whose embeddings are kept for the whole animation.

    It takes the place of both in `paper_networks`: indexed as the images it reads those that are not embedded
    yet, called as the network it embeds these and takes the others from memory. There is room for 256 MB;
    images beyond that are embedded in every step.

    Args:
        network: the ControlNet.
        images: a list of frame numbers turns them into uint8 ``K H W 3``.
    """

    def __init__(self, network: ControlNetModel, images: Any):
        self._network, self._images = network, images
        self._frames: list[int] = []
        self._kept: dict[int, torch.Tensor] = {}
        self._room = CONTROL_CACHE_BYTES

    def __getitem__(self, frames: list[int]) -> np.ndarray:
        """Control images ``K' H W 3`` of the frames whose embeddings are not kept yet."""
        self._frames = frames
        unknown = self._unknown()
        # An empty array of the right size: the network needs images to be called with.
        return self._images[unknown] if unknown else self._images[frames[:1]][:0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network for the frames that were indexed last."""
        # The network adds the embedding inside of its forward, so it is exchanged for the time of a call.
        embedding = self._network.controlnet_cond_embedding
        self._network.controlnet_cond_embedding = _StandIn(lambda pixels: self._embed(embedding, pixels))
        try:
            return self._network(*args, **kwargs)
        finally:
            self._network.controlnet_cond_embedding = embedding

    def _unknown(self) -> list[int]:
        return [frame for frame in dict.fromkeys(self._frames) if frame not in self._kept]

    def _embed(self, embedding: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the new pixels ``K' 3 H W`` and return the embeddings ``K C h w`` of all frames."""
        fresh: list[torch.Tensor] = []
        for some in pixels.split(EMBEDDED_AT_ONCE):
            fresh += embedding(some) if len(some) else ()
        new = dict(zip(self._unknown(), fresh, strict=True))
        known = self._kept | new
        found = torch.stack([known[frame] for frame in self._frames])
        for frame, one in new.items():
            # First come, first kept: every frame is needed once a step, so replacing others would gain
            # nothing.
            if one.nbytes <= self._room:
                self._kept[frame] = one
                self._room -= one.nbytes
        return found


class _StandIn(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.forward = function


def reuse_bank(networks: Networks, *, reuse: int) -> Networks:
    """Reuse the bank of an earlier step that lies at most ``reuse`` timesteps back (of 1000 in training)."""
    kept: list[tuple[int | float, Bank]] = []

    def encode(timestep: torch.Tensor) -> Bank:
        at = timestep.item()
        # A bank of a later timestep than this one is of a step that is done again.
        if not kept or not 0 <= kept[0][0] - at <= reuse:
            kept[:] = [(at, networks.encode(timestep))]
        return kept[0][1]

    return replace(networks, encode=encode)


def precompute_banks(networks: Networks, timesteps: torch.Tensor) -> Networks:
    """Compute the banks of all ``timesteps`` now, so that offloading moves the encoder once."""
    # Timesteps are few and the photo's features do not depend on the latents, so all are known beforehand.
    banks = {timestep.item(): networks.encode(timestep) for timestep in timesteps}
    return replace(networks, encode=lambda timestep: banks[timestep.item()])
