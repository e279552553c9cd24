"""The video UNet: diffusers' ``UNetMotionModel`` with the normalization MagicAnimate was trained with.

Letters in shape comments: ``B`` videos in the batch, ``F`` frames, ``C`` channels, ``H W`` height and width
of the latents, ``L`` tokens, ``D`` token width.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import (
    ModelMixin,  # noqa: F401  (loading a pipeline looks for it in this module)
    UNetMotionModel,
)
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import nn
from torch.nn import functional


class ClipGroupNorm(nn.GroupNorm):
    """Group norm of ``(B F) C H W`` whose statistics run over frames, height and width together.

    The published residual blocks normalize the five-dimensional clip; diffusers folds the frames into the
    batch and so normalizes each frame by itself. Parameters and state-dict keys: those of ``nn.GroupNorm``.

    Attributes:
        num_frames: ``F`` of the clip that passes through; set by `VideoUNet.forward`.
    """

    num_frames: int = 1

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # One frame has the same statistics either way, and the plain norm copies nothing.
        if self.num_frames == 1:
            return super().forward(hidden_states)
        # group_norm takes its statistics over all that follows the channels, so frames must come after them.
        clip = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2)  # (B F) C H W -> B C F H W
        clip = functional.group_norm(clip, self.num_groups, self.weight, self.bias, self.eps)
        return clip.transpose(1, 2).flatten(0, 1)  # B C F H W -> (B F) C H W


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of ``B C F H W`` or ``(B F) C H W`` with the statistics of each frame by itself.

    The published motion modules normalize frames one by one; diffusers hands its norm the whole clip.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # From diffusers the clip has five dimensions; the CPU kernels have folded its frames already.
        if hidden_states.ndim == 4:
            return super().forward(hidden_states)
        frames = hidden_states.transpose(1, 2)  # B C F H W -> B F C H W
        normed = functional.group_norm(
            frames.flatten(0, 1), self.num_groups, self.weight, self.bias, self.eps
        )
        return normed.unflatten(0, frames.shape[:2]).transpose(1, 2)


def _replaced(norm: nn.GroupNorm, cls: type[nn.GroupNorm]) -> nn.GroupNorm:
    """The same norm, same parameters, as an instance of ``cls``."""
    # Sharing the parameters keeps the state dict and its keys those of diffusers.
    new = cls(norm.num_groups, norm.num_channels, eps=norm.eps, affine=norm.affine)
    new.weight, new.bias = norm.weight, norm.bias
    return new


class VideoUNet(UNetMotionModel):
    """UNet over clips: ``UNetMotionModel`` with clip-wide residual norms and per-frame motion norms.

    Its motion modules are the paper's temporal attention; `install_hybrid_attention` makes its spatial
    self-attention hybrid. Takes the arguments of ``UNetMotionModel``. MagicAnimate has no motion module in
    its middle block and positions for 24 frames: ``use_motion_mid_block=False, motion_max_seq_length=24``.

    Source: supplement of the MagicAnimate paper, section 1, and the numbers of the published program.
    """

    @functools.wraps(UNetMotionModel.__init__)  # type: ignore[misc]  # loading reads the names of its arguments
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A list, since replacing norms changes what modules() walks through.
        for module in list(self.modules()):
            if isinstance(module, ResnetBlock2D):
                module.norm1 = _replaced(module.norm1, ClipGroupNorm)
                module.norm2 = _replaced(module.norm2, ClipGroupNorm)
            elif isinstance(module, AnimateDiffTransformer3D):
                module.norm = _replaced(module.norm, FrameGroupNorm)
        self.conv_norm_out: nn.GroupNorm = _replaced(self.conv_norm_out, ClipGroupNorm)

    def forward(
        self, sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **kwargs: Any
    ) -> Any:
        """Predict the noise (or velocity) of a clip.

        Args:
            sample: noisy latents ``B C F H W``.
            timestep: scalar or ``B`` integers.
            encoder_hidden_states: text embedding ``B L D``, shared by the frames of a video.
            **kwargs: as for ``UNetMotionModel.forward``; ControlNet residuals are ``(B F) C H W``.

        Returns:
            What ``UNetMotionModel.forward`` returns; the sample is ``B C F H W``.
        """
        self.set_num_frames(sample.shape[2])
        # diffusers folds frames into the batch, so each frame needs a text of its own.
        text = encoder_hidden_states.repeat_interleave(sample.shape[2], dim=0)  # B L D -> (B F) L D
        return super().forward(sample, timestep, text, **kwargs)

    def set_num_frames(self, num_frames: int) -> None:
        """Tell the norms how many frames of a clip lie next to each other; `forward` does."""
        for module in self.modules():
            if isinstance(module, ClipGroupNorm):
                module.num_frames = num_frames

    def motion_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the temporal layers, by state-dict key: what stage 2 of the paper trains."""
        return {name: p for name, p in self.named_parameters() if ".motion_modules." in name}
