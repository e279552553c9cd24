"""Deep features of the video UNet that serve again in later steps, while only its surface is computed.

Source: Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", with the cut at the shallowest
skip connection: what reaches the last layer of the last up block from below is kept, and a step at the
surface runs the first convolution, that last layer and the output. At the full model's size this is a
twelfth of a guided step's arithmetic. diffusers' caching hooks do not serve here: they look for a flat list
of transformer blocks and know one state for each module, not one for each window.

Letters in shape comments: ``N`` windows at once, ``K`` frames of a window, ``C h w`` channels and latents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from magicanimate.memory.profiles import KEPT_DEEP as KEPT_BYTES
from magicanimate.models.unet import VideoUNet

Windows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Kept:
    """What a full step left of some windows.

    Attributes:
        timestep: of that step.
        deep: for each guidance branch what reaches the last layer from below, ``(N K) C h w``.
        residual: the ControlNet's for the first skip connection, ``(N K) C' h w``.
    """

    timestep: float
    deep: tuple[torch.Tensor, ...]
    residual: torch.Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.residual.nbytes + sum(tensor.nbytes for tensor in self.deep)


class DeepFeatures:
    """Keeps the deep features of windows for some timesteps.

    There is room for 2 GiB; windows that find none are computed in full. A guided window of 16 frames takes
    126 MB at 512x512 pixels and Stable Diffusion 1.5's size, so that 17 windows (208 frames) fit.

    Args:
        unet: whose features.
        reuse: timesteps for which they serve; 0 keeps nothing.
    """

    def __init__(self, unet: VideoUNet, *, reuse: int):
        self.unet, self.reuse = unet, reuse
        self._kept: dict[tuple[tuple[int, ...], ...], Kept] = {}

    def find(self, windows: Windows, timestep: float, *, branches: int) -> Kept | None:
        """What was kept of these windows, if it may serve at ``timestep`` for the last ``branches``."""
        kept = self._kept.get(_key(windows))
        if kept is None or kept.timestep - timestep > self.reuse or len(kept.deep) < branches:
            return None
        return Kept(kept.timestep, kept.deep[-branches:], kept.residual)

    @contextlib.contextmanager
    def recorded(
        self, windows: Windows, timestep: float, residual: torch.Tensor, *, branches: int
    ) -> Iterator[None]:
        """While the UNet predicts these windows in full, keep what later steps need.

        Args:
            windows: frame numbers of each.
            timestep: of this step.
            residual: the ControlNet's for the first skip connection.
            branches: guidance branches that are predicted, in one call or one after the other.
        """
        if not self.reuse:
            yield
            return
        self._kept.pop(_key(windows), None)
        seen: list[torch.Tensor] = []
        layer = self.unet.up_blocks[-1].resnets[-1]

        def note(_: nn.Module, args: tuple, kwargs: dict) -> None:
            hidden = kwargs["input_tensor"] if "input_tensor" in kwargs else args[0]
            seen.append(_compact(hidden[:, : -self.unet.conv_in.out_channels]))  # without the skip

        hook = layer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
        deep = tuple(seen) if len(seen) == branches else torch.cat(seen).chunk(branches)
        kept = Kept(timestep, deep, _compact(residual))
        if kept.nbytes + sum(other.nbytes for other in self._kept.values()) <= KEPT_BYTES:
            self._kept[_key(windows)] = kept


def _key(windows: Windows) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(window) for window in windows)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in two bytes a number: rounding is small beside the age of what is kept."""
    return tensor.to(torch.bfloat16 if tensor.dtype == torch.float32 else tensor.dtype, copy=True)
