"""One denoising step over overlapping windows: ControlNet, reference, UNet, blending, guidance.

Letters in shape comments: ``B`` guidance branches (1 or 2), ``F`` frames of the clip, ``N`` windows
at once, ``K`` frames of a window, ``C h w`` latents, ``L D`` text tokens and width, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import ControlNetModel

from magicanimate.distributed import Team
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.control_maps import ControlMaps
from magicanimate.models.reference import HybridSelfAttention, set_reference, set_visible
from magicanimate.models.unet import Turns, VideoUNet
from magicanimate.speed import Speed


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

    The ControlNet's residuals go to both guidance branches; the reference only to the conditional one.
    """

    def __init__(
        self,
        unet: VideoUNet,
        encoder: AppearanceEncoder,
        controlnet: ControlNetModel,
        readers: Mapping[str, HybridSelfAttention],
        conditions: Conditions,
        speed: Speed,
        *,
        maps: ControlMaps | None = None,
    ):
        self.unet, self.encoder, self.controlnet = unet, encoder, controlnet
        self.readers, self.conditions, self.speed, self.maps = readers, conditions, speed, maps
        text = conditions.text
        self.branches = text.shape[0]
        self.visible = [False, True][-self.branches :]  # who sees the reference
        # Slices are made once: who keeps keys of a text knows it by the tensor.
        self.texts = [text[i : i + 1] for i in range(self.branches)]
        alike = self.branches == 2 and torch.equal(text[0], text[1])
        if alike:
            self.texts = [self.texts[1]] * 2
        self.share_down = alike and not any(name.startswith("down_blocks") for name in readers)
        self._banks: dict[float, dict[str, torch.Tensor]] = {}

    def encode_ahead(self, timesteps: torch.Tensor) -> None:
        """Read the reference at all ``timesteps``, so that the encoder is not needed any more."""
        self._banks = {float(timestep): self._bank(timestep) for timestep in timesteps}

    def rearrange(self, speed: Speed) -> None:
        """Go on in another arrangement from the next step, with as much kept as before or less."""
        self.speed = speed
        if self.maps is not None and not speed.keep_maps:
            self.maps.stop_keeping()

    def start_step(self, timestep: torch.Tensor) -> None:
        """Begin a step: read the reference at ``timestep``, forget the predictions of the last step."""
        bank = self._banks[float(timestep)] if self._banks else self._bank(timestep)
        set_reference(self.readers, bank, visible=self.visible)
        self.timestep = timestep
        self.sum: torch.Tensor | None = None
        self.weight: torch.Tensor | None = None
        self._residuals: dict[int, list[torch.Tensor]] = {}

    def _bank(self, timestep: torch.Tensor) -> dict[str, torch.Tensor]:
        given = self.conditions
        bank = self.encoder(given.reference, timestep, self.texts[-1])
        needed = {name: bank[name] for name in self.readers}
        if given.bank_dtype is not None:
            return {name: tokens.to(given.bank_dtype) for name, tokens in needed.items()}
        return needed

    def add_windows(
        self,
        latents: torch.Tensor,
        windows: Sequence[list[int]],
        weights: Sequence[list[float]],
        *,
        following: Sequence[list[int]] = (),
    ) -> None:
        """Predict the noise of some windows of one length and add it up.

        Args:
            latents: ``1 C F h w``.
            windows: frame numbers of each.
            weights: of each of their frames.
            following: the windows that come next; frames that they share keep their residuals.
        """
        frames = torch.cat([latents[:, :, window] for window in windows]).to(self.unet.dtype)  # N C K h w
        residuals = self._control(latents, windows, following)
        predict = self._predict_in_turn if self.speed.halves_in_turn else self._predict_together
        predicted = predict(frames, residuals)  # B N C K h w
        self._begin_sums(latents)
        for i, window in enumerate(windows):
            index = torch.tensor(window, device=predicted.device)
            weight = torch.tensor(weights[i], device=predicted.device)
            self.sum.index_add_(2, index, predicted[:, i].float() * weight.view(-1, 1, 1))
            self.weight.index_add_(0, index, weight)

    def _predict_together(self, frames: torch.Tensor, residuals: list[torch.Tensor]) -> torch.Tensor:
        """Both branches as one batch: first all windows of the unconditional one."""
        count = len(frames)
        set_visible(self.readers, [seen for seen in self.visible for _ in range(count)])
        repeated = [residual.repeat(self.branches, 1, 1, 1) for residual in residuals]
        predicted = self.unet(
            frames.repeat(self.branches, 1, 1, 1, 1),
            self.timestep,
            self.conditions.text.repeat_interleave(count, dim=0),
            down_block_additional_residuals=repeated[:-1],
            mid_block_additional_residual=repeated[-1],
            return_dict=False,
        )[0]
        return predicted.unflatten(0, (self.branches, count))

    def _predict_in_turn(self, frames: torch.Tensor, residuals: list[torch.Tensor]) -> torch.Tensor:
        """One branch after the other, the down path once for both where nothing tells them apart."""
        rows = frames.shape[0] * frames.shape[2]
        predicted = self.unet(
            frames,
            self.timestep,
            turns=Turns(
                texts=[self._text(text, rows) for text in self.texts],
                before=lambda i: set_visible(self.readers, [self.visible[i]]),
                share_down=self.share_down,
            ),
            down_block_additional_residuals=residuals[:-1],
            mid_block_additional_residual=residuals[-1],
        )
        return torch.stack(predicted)

    def _text(self, text: torch.Tensor, rows: int) -> torch.Tensor:
        """``1 L D``, or repeated for the cross-attentions that want a text for each frame."""
        return text if self.speed.keep_keys else text.expand(rows, -1, -1)

    def _control(
        self, latents: torch.Tensor, windows: Sequence[list[int]], following: Sequence[list[int]]
    ) -> list[torch.Tensor]:
        """Residuals of the ControlNet for the windows, ``(N K) C' h' w'`` each, the middle block's last."""
        wanted = [frame for window in windows for frame in window]
        known = self._residuals
        new = [frame for frame in dict.fromkeys(wanted) if frame not in known]
        fresh = self._control_frames(latents, new) if new else []
        if new == wanted:
            residuals = fresh
        else:
            known = known | {frame: [r[i] for r in fresh] for i, frame in enumerate(new)}
            residuals = [
                torch.stack([known[frame][level] for frame in wanted])
                for level in range(len(known[wanted[0]]))
            ]
        # Copies, so that the frames which nobody asks for again are not kept alive.
        again = set(wanted) & {frame for window in following for frame in window}
        self._residuals = {
            frame: [residual[wanted.index(frame)].clone() for residual in residuals] for frame in again
        }
        return residuals

    def _control_frames(self, latents: torch.Tensor, frames: list[int]) -> list[torch.Tensor]:
        given = self.conditions
        noisy = latents[0, :, frames].transpose(0, 1).to(self.unet.dtype)  # 1 C F h w -> K C h w
        unknown = frames
        if self.maps is not None:
            self.maps.frames = frames
            unknown = self.maps.unknown()
        pixels = torch.from_numpy(np.ascontiguousarray(given.control[unknown or frames[:1]]))
        pixels = pixels[: len(unknown)].to(noisy.device)
        down, mid = self.controlnet(
            noisy,
            self.timestep,
            self._text(self.texts[-1], len(frames)),
            controlnet_cond=(pixels.movedim(-1, 1).to(torch.float32) / 255).to(noisy.dtype),
            conditioning_scale=given.control_scale,
            return_dict=False,
        )
        return [*down, mid]

    def _begin_sums(self, latents: torch.Tensor) -> None:
        if self.sum is None:
            shape = (self.branches, self.unet.config.out_channels, *latents.shape[2:])
            self.sum = torch.zeros(shape, device=latents.device)
            self.weight = torch.zeros(latents.shape[2], device=latents.device)

    def add_up(self, team: Team, latents: torch.Tensor) -> None:
        """Bring together what the processes of a team predicted for ``latents``."""
        self._begin_sums(latents)
        team.add_up(self.sum, self.weight)

    def prediction(self) -> torch.Tensor:
        """Blended and guided noise prediction of the step, ``1 C F h w``, float32."""
        mean = self.sum / self.weight.view(-1, 1, 1)
        if self.branches == 1:
            return mean
        unconditional, conditional = mean.chunk(2)
        return unconditional + self.conditions.guidance_scale * (conditional - unconditional)
