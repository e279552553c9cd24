"""The ControlNet's embedding of the driving frames, which is the same in every denoising step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from diffusers import ControlNetModel
from torch import nn

from magicanimate.memory.profiles import KEPT_MAPS as KEPT_BYTES

EMBEDDED_AT_ONCE = 4  # frames; the first layers work at the picture's full size


class ControlMaps(nn.Module):
    """Stands in for ``ControlNetModel.controlnet_cond_embedding`` and keeps what that computed.

    Attributes:
        frames: numbers of the frames of the next call.
    """

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding
        self.frames: Sequence[int] = ()
        self._kept: dict[int, torch.Tensor] = {}
        self._room = KEPT_BYTES

    def unknown(self) -> list[int]:
        """Those of ``frames`` whose pixels the next call wants."""
        return [frame for frame in self.frames if frame not in self._kept]

    def stop_keeping(self) -> None:
        """Forget what was computed and keep nothing from now on."""
        self._kept.clear()
        self._room = 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels ``N 3 H W`` in [0, 1] of the `unknown` frames -> maps ``N C h w`` of all ``frames``."""
        fresh: list[torch.Tensor] = []
        for some in pixels.split(EMBEDDED_AT_ONCE):
            fresh += self.embedding(some) if len(some) else ()
        new = dict(zip(self.unknown(), fresh, strict=True))
        maps = torch.stack([new.get(frame, self._kept.get(frame)) for frame in self.frames])
        for frame, one in new.items():
            if one.nbytes <= self._room:
                self._kept[frame] = one
                self._room -= one.nbytes
        return maps


@contextlib.contextmanager
def control_maps(controlnet: ControlNetModel) -> Iterator[ControlMaps]:
    """While it lasts, the ControlNet keeps the embeddings of its driving frames."""
    embedding = controlnet.controlnet_cond_embedding
    controlnet.controlnet_cond_embedding = maps = ControlMaps(embedding)
    try:
        yield maps
    finally:
        controlnet.controlnet_cond_embedding = embedding
