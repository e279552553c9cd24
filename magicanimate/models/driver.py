"""A ControlNet together with the drawings that drive it.

Letters in shape comments: ``K`` frames, ``C h w`` latents, ``L D`` text tokens and width, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel

from magicanimate.device import to_device
from magicanimate.models.control_maps import ControlMaps


@dataclass(frozen=True)
class Driver:
    """One of the signals of the motion.

    Attributes:
        network: the ControlNet that was trained on such drawings.
        drawings: indexable by a list of frame numbers -> uint8 ``K H W 3``.
        maps: keeps the embeddings of drawings, or ``None``.
    """

    network: ControlNetModel
    drawings: Sequence[np.ndarray] | np.ndarray
    maps: ControlMaps | None = None

    def residuals(
        self,
        frames: list[int],
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        *,
        scale: float,
    ) -> list[torch.Tensor]:
        """What the network adds to a UNet's features, ``K C' h' w'`` each, the middle block's last.

        Args:
            frames: their numbers.
            noisy: their latents, ``K C h w``.
            timestep: of the step.
            text: ``K L D``, or ``1 L D`` for networks with `TextAttention`.
            scale: weight of the residuals.
        """
        unknown = frames
        if self.maps is not None:
            self.maps.frames = frames
            unknown = self.maps.unknown()
        pixels = torch.from_numpy(np.ascontiguousarray(self.drawings[unknown or frames[:1]]))
        pixels = to_device(pixels[: len(unknown)], noisy.device)
        down, mid = self.network(
            noisy,
            timestep,
            text,
            controlnet_cond=(pixels.movedim(-1, 1).to(torch.float32) / 255).to(noisy.dtype),
            conditioning_scale=scale,
            return_dict=False,
        )
        return [*down, mid]
