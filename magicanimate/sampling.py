"""MagicAnimate's sampling loop: the algorithm of the paper on one screen.

    for each timestep t:
        bank      = appearance encoder(photo, t)                 section 3.2
        for each context window of K frames:                     section 3.4
            residuals = ControlNet(latents, t, poses)            section 3.3
            noise     = video UNet(latents, t, residuals, bank)  hybrid self-attention, supplement 1
        noise     = mean over the windows that overlap           section 3.4
        noise     = unconditional + w (conditional - unconditional)
        latents   = scheduler.step(noise, t, latents)

Each speed-up in `magicanimate.acceleration` replaces a function of `Networks`. Hybrid self-attention is
`HybridSelfAttention` in `magicanimate.models.hybrid_attention`.

Letters in shape comments: ``B`` guidance branches (1 or 2), ``F`` frames of the clip, ``N`` windows at once
(here 1), ``K`` frames of a window, ``C h w`` latents, ``L D`` text tokens and width, ``H W`` pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from inspect import signature
from typing import Any

import numpy as np
import torch

from magicanimate.device import to_device
from magicanimate.models.hybrid_attention import HybridSelfAttention, set_reference, set_visible
from magicanimate.windows import WindowPlan

Bank = dict[str, torch.Tensor]  # transformer block -> the photo's features y_a, 1 L D
Residuals = list[torch.Tensor]  # one for each skip connection, (N K) C' h' w', the middle block's last


@dataclass(frozen=True)
class Window:
    """A context window, ``K`` frames that the UNet sees together (section 3.4)."""

    frames: list[int]  # their numbers in the clip
    index: torch.Tensor  # the same, int64 ``K``
    weight: torch.Tensor  # of each frame in the mean over the windows, ``K``


def fuse_windows(
    networks: "Networks", latents: torch.Tensor, timestep: torch.Tensor, windows: Sequence[Window]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the windows' noise, float32 ``B C F h w``, and of the weights, ``F`` (section 3.4)."""
    total, weight = latents.new_zeros(()), latents.new_zeros(latents.shape[2])
    for window in windows:
        noisy = latents.index_select(2, window.index)  # 1 C K h w
        residuals = networks.control(window.frames, noisy[0].transpose(0, 1), timestep)  # section 3.3
        noise = networks.predict(window.frames, noisy, timestep, residuals).float()  # B C K h w
        total = total if total.ndim else noise.new_zeros(*noise.shape[:2], *latents.shape[2:])
        total.index_add_(2, window.index, noise * window.weight.view(-1, 1, 1))
        weight.index_add_(0, window.index, window.weight)
    return total, weight


@dataclass(frozen=True)
class Networks:
    """The functions that the loop calls. Timesteps are scalars on the CPU, all else is on the device."""

    encode: Callable[[torch.Tensor], Bank]  # timestep -> the photo's bank
    show: Callable[[Bank], None]  # gives a bank to the UNet's hybrid self-attention
    # frames, latents (N K) C h w, timestep -> what the poses add to the UNet's features
    control: Callable[[list[int], torch.Tensor, torch.Tensor], Residuals]
    # frames, latents N C K h w, timestep, residuals -> noise (B N) C K h w
    predict: Callable[[list[int], torch.Tensor, torch.Tensor, Residuals], torch.Tensor]
    fuse: Callable[..., tuple[torch.Tensor, torch.Tensor]] = fuse_windows


def paper_networks(
    unet: Callable[..., Any],
    encoder: Callable[..., Bank],
    controlnets: Sequence[tuple[Callable[..., Any], Any]],
    readers: Mapping[str, HybridSelfAttention],
    *,
    photo: torch.Tensor,
    text: torch.Tensor,
    visible: Sequence[bool] = (False, True),
    control_scale: float = 1.0,
    reference_strength: float = 1.0,
) -> Networks:
    """The networks as the paper defines them; several ControlNets add up (table 1).

    Each ControlNet comes with its control images: indexed by frame numbers they give uint8 ``K H W 3``.
    ``photo`` is ``1 C h w`` without noise and ``text`` ``B L D``: with classifier-free guidance
    [unconditional, conditional], of which only the conditional branch sees the photo (``visible``).
    """

    def encode(timestep: torch.Tensor) -> Bank:
        bank = encoder(photo, to_device(timestep, photo.device), text[-1:])
        return {name: bank[name] for name in readers}  # the down blocks' are not needed

    def control(frames: list[int], noisy: torch.Tensor, timestep: torch.Tensor) -> Residuals:
        outputs, at, prompt = [], to_device(timestep, noisy.device), text[-1:].expand(len(noisy), -1, -1)
        for network, images in controlnets:
            pixels = to_device(torch.from_numpy(np.ascontiguousarray(images[frames])), noisy.device)
            cond = (pixels.movedim(-1, 1).float() / 255).to(text.dtype)  # K H W 3 -> K 3 H W
            down, mid = network(noisy.to(text.dtype), at, prompt, cond, control_scale, return_dict=False)
            outputs.append([*down, mid])
        return [reduce(torch.add, level) for level in zip(*outputs, strict=True)]

    def predict(_: Any, noisy: torch.Tensor, timestep: torch.Tensor, residuals: Residuals) -> torch.Tensor:
        set_visible(readers, [sees for sees in visible[-len(text) :] for _ in noisy])
        *down, mid = (residual.repeat(len(text), 1, 1, 1) for residual in residuals)
        sample = noisy.to(text.dtype).repeat(len(text), 1, 1, 1, 1)
        at, prompt = to_device(timestep, noisy.device), text.repeat_interleave(len(noisy), dim=0)
        given = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return unet(sample, at, prompt, **given).sample

    return Networks(encode, partial(set_reference, readers, strength=reference_strength), control, predict)


def denoise(
    latents: torch.Tensor,
    scheduler: Any,
    timesteps: torch.Tensor,
    networks: Callable[[], Networks],
    *,
    plan: WindowPlan,
    guidance_scale: float,
    generator: torch.Generator,
    attempt: Callable[[Callable[[], Any]], Any],
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the latents, float32 ``1 C F h w``, after each step, and the clean ones as predicted then.

    ``attempt`` calls a step, again when memory runs out; noise that schedulers add is of ``generator``.
    """
    draws = {"generator": generator} if "generator" in signature(scheduler.step).parameters else {}

    @cache  # most plans have the same windows in every step
    def window(*frames: int) -> Window:
        weights = torch.tensor(plan.weights(list(frames)))
        return Window(list(frames), *(to_device(x, latents.device) for x in (torch.tensor(frames), weights)))

    def step(i: int, timestep: torch.Tensor) -> Any:
        now, windows = networks(), [window(*frames) for frames in plan.windows(latents.shape[2], step=i)]
        now.show(now.encode(timestep))  # the appearance encoder, section 3.2
        total, weight = now.fuse(now, scheduler.scale_model_input(latents, timestep), timestep, windows)
        noise = total / weight.view(-1, 1, 1)  # B C F h w; the mean where windows overlap, section 3.4
        if len(noise) == 2:
            unconditional, conditional = noise.chunk(2)
            noise = unconditional + guidance_scale * (conditional - unconditional)  # guidance
        return scheduler.step(noise, timestep, latents, **draws)

    for i, timestep in enumerate(timesteps):
        output = attempt(partial(step, i, timestep))
        yield (latents := output.prev_sample), output.get("pred_original_sample", output.prev_sample)
