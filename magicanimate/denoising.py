"""One denoising step over overlapping windows: ControlNet, reference, UNet, blending, guidance.

Letters in shape comments: ``B`` guidance branches (1 or 2), ``F`` frames of the clip, ``K`` frames of a
window, ``C h w`` latents, ``L D`` text tokens and width, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel

from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.reference import HybridSelfAttention, set_reference
from magicanimate.models.unet import VideoUNet


@dataclass(frozen=True)
class Conditions:
    """What steers the denoising of a clip.

    Attributes:
        reference: latents of the photo, ``1 C h w``.
        control: DensePose frames, indexable by a list of frame numbers -> uint8 ``K H W 3``.
        text: embeddings ``B L D``, [negative, prompt] with guidance.
        guidance_scale: 1 or less means that ``text`` holds the prompt alone.
        control_scale: weight of the ControlNet's residuals.
        bank_dtype: round the reference bank to this type.
    """

    reference: torch.Tensor
    control: Sequence[np.ndarray] | np.ndarray
    text: torch.Tensor
    guidance_scale: float
    control_scale: float
    bank_dtype: torch.dtype | None = None


class WindowDenoiser:
    """Predicts the noise of a whole clip window by window.

    The ControlNet runs once per frame and step: where windows overlap, the second one takes the residuals
    of the first. Its residuals go to both guidance branches; the reference only to the conditional one.
    """

    def __init__(
        self,
        unet: VideoUNet,
        encoder: AppearanceEncoder,
        controlnet: ControlNetModel,
        readers: Mapping[str, HybridSelfAttention],
        conditions: Conditions,
    ):
        self.unet, self.encoder, self.controlnet = unet, encoder, controlnet
        self.readers, self.conditions = readers, conditions
        self.branches = conditions.text.shape[0]

    def start_step(self, timestep: torch.Tensor) -> None:
        """Begin a step: read the reference at ``timestep``, forget the predictions of the last step."""
        given = self.conditions
        bank = self.encoder(given.reference, timestep, given.text[-1:])
        if given.bank_dtype is not None:
            bank = {name: tokens.to(given.bank_dtype) for name, tokens in bank.items()}
        set_reference(self.readers, bank, visible=[False, True][-self.branches :])
        self.timestep = timestep
        self.sum: torch.Tensor | None = None
        self.weight: torch.Tensor | None = None
        self._residuals: dict[int, list[torch.Tensor]] = {}

    def add_window(self, latents: torch.Tensor, window: list[int], weights: list[float]) -> None:
        """Predict the noise of ``window`` (frame numbers) of ``latents`` (``1 C F h w``) and add it up."""
        frames = latents[:, :, window].to(self.unet.dtype)  # 1 C K h w
        residuals = self._control(frames, window)
        predicted = self.unet(
            frames.expand(self.branches, -1, -1, -1, -1),
            self.timestep,
            self.conditions.text,
            down_block_additional_residuals=[r.repeat(self.branches, 1, 1, 1) for r in residuals[:-1]],
            mid_block_additional_residual=residuals[-1].repeat(self.branches, 1, 1, 1),
            return_dict=False,
        )[0].float()
        if self.sum is None:
            shape = (self.branches, predicted.shape[1], *latents.shape[2:])
            self.sum = torch.zeros(shape, device=predicted.device)
            self.weight = torch.zeros(latents.shape[2], device=predicted.device)
        index = torch.tensor(window, device=predicted.device)
        weight = torch.tensor(weights, device=predicted.device)
        self.sum.index_add_(2, index, predicted * weight.view(-1, 1, 1))
        self.weight.index_add_(0, index, weight)

    def _control(self, frames: torch.Tensor, window: list[int]) -> list[torch.Tensor]:
        """Residuals of the ControlNet for a window, ``K C' h' w'`` each, the middle block's last."""
        given = self.conditions
        new = [i for i, frame in enumerate(window) if frame not in self._residuals]
        fresh: list[torch.Tensor] = []
        if new:
            pixels = torch.from_numpy(np.ascontiguousarray(given.control[[window[i] for i in new]]))
            pixels = pixels.to(frames.device).movedim(-1, 1).to(torch.float32) / 255
            down, mid = self.controlnet(
                frames[0, :, new].transpose(0, 1),  # C K h w -> K C h w
                self.timestep,
                given.text[-1:].expand(len(new), -1, -1),
                controlnet_cond=pixels.to(frames.dtype),
                conditioning_scale=given.control_scale,
                return_dict=False,
            )
            fresh = [*down, mid]
        known = self._residuals
        known.update({window[i]: [r[j] for r in fresh] for j, i in enumerate(new)})
        self._residuals = {frame: known[frame] for frame in window}  # only what the next window may share
        levels = len(known[window[0]])
        return [torch.stack([known[frame][level] for frame in window]) for level in range(levels)]

    def prediction(self) -> torch.Tensor:
        """Blended and guided noise prediction of the step, ``1 C F h w``, float32."""
        mean = self.sum / self.weight.view(-1, 1, 1)
        if self.branches == 1:
            return mean
        unconditional, conditional = mean.chunk(2)
        return unconditional + self.conditions.guidance_scale * (conditional - unconditional)
