"""The video UNet: diffusers' ``UNetMotionModel`` with the normalization MagicAnimate was trained with.

Letters in shape comments: ``B`` videos in the batch, ``F`` frames, ``C`` channels, ``H W`` height and width
of the latents, ``L`` tokens, ``D`` token width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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

    def forward(self, hidden_states: torch.Tensor, *, groups: int | None = None) -> torch.Tensor:
        """Normalize ``(B F) C H W``; with ``groups`` the channels of the first so many groups alone."""
        groups = groups or self.num_groups
        channels = groups * self.num_channels // self.num_groups
        hidden_states = hidden_states[:, :channels]
        affine = self.weight[:channels], self.bias[:channels]
        if self.num_frames == 1:
            return functional.group_norm(hidden_states, groups, *affine, self.eps)
        clip = hidden_states.unflatten(0, (-1, self.num_frames)).transpose(1, 2)  # (B F) C H W -> B C F H W
        clip = functional.group_norm(clip, groups, *affine, self.eps)
        return clip.transpose(1, 2).flatten(0, 1)  # B C F H W -> (B F) C H W


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of ``B C F H W`` or ``(B F) C H W`` with the statistics of each frame by itself.

    The published motion modules normalize frames one by one; diffusers hands its norm the whole clip.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.ndim == 4:
            return super().forward(hidden_states)
        frames = hidden_states.transpose(1, 2)  # B C F H W -> B F C H W
        normed = functional.group_norm(
            frames.flatten(0, 1), self.num_groups, self.weight, self.bias, self.eps
        )
        return normed.unflatten(0, frames.shape[:2]).transpose(1, 2)


def _replaced(norm: nn.GroupNorm, cls: type[nn.GroupNorm]) -> nn.GroupNorm:
    """The same norm, same parameters, as an instance of ``cls``."""
    new = cls(norm.num_groups, norm.num_channels, eps=norm.eps, affine=norm.affine)
    new.weight, new.bias = norm.weight, norm.bias
    return new


def _has_text(block: nn.Module) -> bool:
    return getattr(block, "has_cross_attention", False)


class SkipSharing:
    """What the layers that share skip connections know of the turn that runs.

    Attributes:
        turn: 0 while the first half runs, 1 for the second; ``None`` when the halves are not alike.
        kept: what a convolution made of its skip connection in turn 0, for turn 1.
    """

    def __init__(self) -> None:
        self.turn: int | None = None
        self.kept: dict[nn.Module, torch.Tensor] = {}

    def end(self) -> None:
        """No turn runs; nothing stays in memory, even where one was broken off."""
        self.turn = None
        self.kept.clear()


@dataclass(frozen=True)
class Turns:
    """Predictions of `VideoUNet` for the same latents and residuals one after another, as guidance needs.

    Attributes:
        texts: for each turn ``B L D`` where the cross-attentions are `TextAttention`, else ``(B F) L D``.
        before: called with a turn's number before it begins, to show the reference or hide it.
        share_down: run the down path once. Right only where the texts are equal and the down blocks do not
            read the reference.
        deep: for each turn what reaches the last layer of the last up block from below in a step near by,
            ``(B F) C H W``; then only that layer is computed, and the first skip connection is the only one
            whose residual is asked for. See `magicanimate.models.deep_features`.
        skips: from `magicanimate.models.shared_skips`, for two turns that share the down path.
    """

    texts: Sequence[torch.Tensor]
    before: Callable[[int], None]
    share_down: bool
    deep: Sequence[torch.Tensor] | None = None
    skips: SkipSharing | None = None


@dataclass(frozen=True)
class DownPath:
    """What the down path of `VideoUNet` leaves to the rest.

    Attributes:
        hidden: output of the last down block, ``(B F) C H W``.
        skips: for the up blocks, with the ControlNet's residuals; the last one is used first.
        embedding: of the timestep, ``(B F) D``.
        num_frames: ``F``.
    """

    hidden: torch.Tensor
    skips: tuple[torch.Tensor, ...]
    embedding: torch.Tensor
    num_frames: int


class VideoUNet(UNetMotionModel):
    """UNet over clips: ``UNetMotionModel`` with clip-wide residual norms and per-frame motion norms.

    Takes the arguments of ``UNetMotionModel``. MagicAnimate has no motion module in its middle block and
    positions for 24 frames: ``use_motion_mid_block=False, motion_max_seq_length=24``.

    Source: supplement of the MagicAnimate paper, section 1, and the numbers of the published program.
    """

    @functools.wraps(UNetMotionModel.__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for module in list(self.modules()):
            if isinstance(module, ResnetBlock2D):
                module.norm1 = _replaced(module.norm1, ClipGroupNorm)
                module.norm2 = _replaced(module.norm2, ClipGroupNorm)
            elif isinstance(module, AnimateDiffTransformer3D):
                module.norm = _replaced(module.norm, FrameGroupNorm)
        self.conv_norm_out = _replaced(self.conv_norm_out, ClipGroupNorm)

    def forward(
        self,
        sample: torch.Tensor,
        timestep,
        encoder_hidden_states: torch.Tensor | None = None,
        *,
        turns: Turns | None = None,
        **kwargs,
    ):
        """Predict the noise (or velocity) of a clip.

        Args:
            sample: noisy latents ``B C F H W``.
            timestep: scalar or ``B`` integers.
            encoder_hidden_states: text embedding ``B L D``, shared by the frames of a video.
            turns: predict several times, see there; then without a text, and the ControlNet's residuals are
                the only keywords.
            **kwargs: as for ``UNetMotionModel.forward``; ControlNet residuals are ``(B F) C H W``.

        Returns:
            What ``UNetMotionModel.forward`` returns; the sample is ``B C F H W``. With ``turns`` a tuple of
            such samples.
        """
        if turns is not None:
            return self._in_turn(sample, timestep, turns, **kwargs)
        num_frames = sample.shape[2]
        self._set_num_frames(num_frames)
        text = encoder_hidden_states.repeat_interleave(num_frames, dim=0)  # B L D -> (B F) L D
        return super().forward(sample, timestep, text, **kwargs)

    def _in_turn(
        self,
        sample: torch.Tensor,
        timestep,
        turns: Turns,
        *,
        down_block_additional_residuals: Sequence[torch.Tensor],
        mid_block_additional_residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        self._set_num_frames(sample.shape[2])
        predicted, path = [], None
        alike = turns.share_down and len(turns.texts) == 2 and turns.deep is None
        try:
            for i, text in enumerate(turns.texts):
                turns.before(i)
                if turns.deep is not None:
                    residual = down_block_additional_residuals[0]
                    predicted.append(self._surface(sample, timestep, text, turns.deep[i], residual))
                    continue
                if path is None or not turns.share_down:
                    path = self._down(sample, timestep, text, down_block_additional_residuals)
                if turns.skips is not None and alike:
                    turns.skips.turn = i
                predicted.append(self._up(path, text, mid_block_additional_residual))
        finally:
            if turns.skips is not None:
                turns.skips.end()
        return tuple(predicted)

    def _down(
        self, sample: torch.Tensor, timestep, text: torch.Tensor, residuals: Sequence[torch.Tensor]
    ) -> DownPath:
        """From the latents to the last down block."""
        num_frames = sample.shape[2]
        embedding = self._embedding(sample, timestep)
        hidden = self.conv_in(sample.transpose(1, 2).flatten(0, 1))  # B C F H W -> (B F) C H W
        skips = [hidden]
        for block in self.down_blocks:
            reads_text = {"encoder_hidden_states": text} if _has_text(block) else {}
            hidden, found = block(hidden_states=hidden, temb=embedding, num_frames=num_frames, **reads_text)
            skips += found
        skips = tuple(skip + residual for skip, residual in zip(skips, residuals, strict=True))
        return DownPath(hidden, skips, embedding, num_frames)

    def _up(self, path: DownPath, text: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """From the middle block to the prediction ``B C F H W``."""
        num_frames, skips = path.num_frames, path.skips
        in_time = {"num_frames": num_frames} if hasattr(self.mid_block, "motion_modules") else {}
        hidden = self.mid_block(path.hidden, path.embedding, encoder_hidden_states=text, **in_time)
        hidden = hidden + residual
        for block in self.up_blocks:
            count = len(block.resnets)
            taken, skips = skips[-count:], skips[:-count]
            hidden = block(
                hidden_states=hidden,
                temb=path.embedding,
                res_hidden_states_tuple=taken,
                num_frames=num_frames,
                upsample_size=skips[-1].shape[2:] if skips else None,  # odd sides do not come from doubling
                **({"encoder_hidden_states": text} if _has_text(block) else {}),
            )
        return self._out(hidden, num_frames)

    def _surface(
        self, sample: torch.Tensor, timestep, text: torch.Tensor, deep: torch.Tensor, residual: torch.Tensor
    ) -> torch.Tensor:
        """The prediction ``B C F H W`` from latents and ``deep``: first convolution, last layer, output."""
        num_frames, block = sample.shape[2], self.up_blocks[-1]
        skip = self.conv_in(sample.transpose(1, 2).flatten(0, 1))  # B C F H W -> (B F) C H W
        hidden = torch.cat([deep.to(skip.dtype), skip + residual.to(skip.dtype)], dim=1)
        hidden = block.resnets[-1](hidden, self._embedding(sample, timestep))
        hidden = block.attentions[-1](hidden, encoder_hidden_states=text, return_dict=False)[0]
        return self._out(block.motion_modules[-1](hidden, num_frames=num_frames), num_frames)

    def _embedding(self, sample: torch.Tensor, timestep) -> torch.Tensor:
        """Of the timestep for each frame, ``(B F) D``."""
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(-1).expand(len(sample))
        embedding = self.time_embedding(self.time_proj(timesteps).to(self.dtype))
        return embedding.repeat_interleave(sample.shape[2], dim=0)

    def _out(self, hidden: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Last features ``(B F) C H W`` -> prediction ``B C F H W``."""
        hidden = self.conv_out(self.conv_act(self.conv_norm_out(hidden)))
        return hidden.unflatten(0, (-1, num_frames)).transpose(1, 2)

    def _set_num_frames(self, num_frames: int) -> None:
        for module in self.modules():
            if isinstance(module, ClipGroupNorm):
                module.num_frames = num_frames

    def motion_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the temporal layers, by state-dict key: what stage 2 of the paper trains."""
        return {name: p for name, p in self.named_parameters() if ".motion_modules." in name}
