"""DeepCache: reuse the video UNet's deep features in the next steps and compute its outermost layers only.

Source: Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", cut at the shallowest skip
connection: what reaches the last layer of the last up block from below is kept, and a cached step runs the
first convolution, that last layer and the output, and no ControlNet. At the full model's size this is a
twelfth of a guided step's arithmetic. diffusers' own caching hooks do not fit here: they expect a flat
list of transformer blocks, and know one state for each module, not one for each window.

Letters in shape comments: see `magicanimate.sampling`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from magicanimate.device import to_device
from magicanimate.memory import DEEP_CACHE_BYTES
from magicanimate.models.hybrid_attention import HybridSelfAttention, set_visible
from magicanimate.models.unet import VideoUNet
from magicanimate.sampling import Networks, Residuals


@dataclass(frozen=True)
class _Kept:
    """What is cached of a full step, for the windows that were predicted together."""

    timestep: float  # of that step
    # For each guidance branch what reaches the last layer from below, ``(N K) C h w``.
    deep: tuple[torch.Tensor, ...]
    residual: torch.Tensor  # the ControlNet's for the first skip connection, ``(N K) C' h w``

    @property
    def nbytes(self) -> int:
        return self.residual.nbytes + sum(tensor.nbytes for tensor in self.deep)


def cache_deep_features(
    networks: Networks,
    unet: VideoUNet,
    readers: Mapping[str, HybridSelfAttention],
    text: torch.Tensor,
    *,
    reuse: int,
    last: float,
    guided: Callable[[torch.Tensor], bool],
) -> Networks:
    """Take cached steps for ``reuse`` timesteps (of 1000) after each full step of a window.

    There is room for 2 GiB of features; windows that find none are computed in full every time. A guided
    window of 16 frames takes 126 MB at 512x512 pixels and Stable Diffusion 1.5's size, so that 17 windows
    (208 frames) fit. After the timestep ``last`` a window's features are forgotten: another window that is
    still in its first steps, as in streaming, may have the room. ``text`` is ``B L D``, [unconditional,
    conditional] with guidance; ``guided`` says whether a step computes both.
    """
    cache: dict[tuple[int, ...], _Kept] = {}

    def branches(timestep: torch.Tensor) -> int:
        return len(text) if guided(timestep) else 1

    def find(frames: list[int], timestep: torch.Tensor) -> _Kept | None:
        # Windows move from step to step where `context_offset` is on; those that moved are computed in full.
        kept = cache.get(tuple(frames))
        if kept is None or len(kept.deep) < branches(timestep):
            return None
        # More than 0: when a step is done again, what its first try kept is of the same timestep.
        return kept if 0 < kept.timestep - timestep.item() <= reuse else None

    def control(frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor) -> Residuals:
        kept = find(frames, timestep)
        # A cached step reads the first skip connection only, whose residual is kept: no ControlNet.
        return networks.control(frames, noisy, timestep) if kept is None else [kept.residual]

    def predict(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        kept = find(frames, timestep)
        if kept is None:
            return record(frames, noisy, timestep, residuals)
        if timestep.item() == last:
            del cache[tuple(frames)]  # `kept` has it for this one time
        predicted = []
        # One branch after the other: unconditional first, as `denoise` expects them.
        for i in range(len(text) - branches(timestep), len(text)):
            sees = i == len(text) - 1
            set_visible(readers, [sees] * len(noisy))
            deep = kept.deep[i - len(text)]
            prompt = text[i : i + 1].expand(len(residuals[0]), -1, -1)
            predicted.append(cached_step(unet, noisy.to(text.dtype), timestep, prompt, deep, kept.residual))
        return torch.cat(predicted)

    def record(
        frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals
    ) -> torch.Tensor:
        cache.pop(tuple(frames), None)  # its room is free again
        seen: list[torch.Tensor] = []

        def note(_: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor]) -> None:
            # By position or by name, as the block that calls it prefers.
            hidden = kwargs["input_tensor"] if "input_tensor" in kwargs else args[0]
            seen.append(_compact(hidden[:, : -unet.conv_in.out_channels]))  # without the skip connection

        hook = unet.up_blocks[-1].resnets[-1].register_forward_pre_hook(note, with_kwargs=True)
        try:
            noise = networks.predict(frames, noisy, timestep, residuals)
        finally:
            hook.remove()
        # One call for each branch, or one for all.
        deep = seen if len(seen) == branches(timestep) else torch.cat(seen).chunk(branches(timestep))
        kept = _Kept(timestep.item(), tuple(deep), _compact(residuals[0]))
        room = DEEP_CACHE_BYTES - sum(other.nbytes for other in cache.values())
        if timestep.item() != last and kept.nbytes <= room:
            cache[tuple(frames)] = kept
        return noise

    return replace(networks, control=control, predict=predict)


def cached_step(
    unet: VideoUNet,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    deep: torch.Tensor,
    residual: torch.Tensor,
) -> torch.Tensor:
    """A cached step: the prediction ``N C K h w`` by first convolution, last up layer and output.

    Args:
        sample: noisy latents ``N C K h w``.
        timestep: scalar.
        text: ``(N K) L D``.
        deep: what reaches the last layer from below, ``(N K) C' h w``.
        residual: the ControlNet's for the first skip connection, ``(N K) C'' h w``.
    """
    # As `UNetMotionModel.forward` does it, without the down path, the middle and the deeper up blocks.
    num_frames, block = sample.shape[2], unet.up_blocks[-1]
    unet.set_num_frames(num_frames)
    timesteps = to_device(timestep, sample.device).reshape(-1).expand(len(sample))
    embedding = unet.time_embedding(unet.time_proj(timesteps).to(sample.dtype))
    embedding = embedding.repeat_interleave(num_frames, dim=0)  # (N K) D
    skip = unet.conv_in(sample.transpose(1, 2).flatten(0, 1)) + residual.to(sample.dtype)
    hidden = block.resnets[-1](torch.cat([deep.to(sample.dtype), skip], dim=1), embedding)
    hidden = block.attentions[-1](hidden, encoder_hidden_states=text, return_dict=False)[0]
    hidden = block.motion_modules[-1](hidden, num_frames=num_frames)
    out = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
    return out.unflatten(0, (-1, num_frames)).transpose(1, 2)


def _compact(tensor: torch.Tensor) -> torch.Tensor:
    """Copy in 16 bits: the rounding is far smaller than the error of reusing old features."""
    return tensor.to(torch.bfloat16 if tensor.dtype == torch.float32 else tensor.dtype, copy=True)
