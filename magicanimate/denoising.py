"""One denoising step over overlapping windows: ControlNet, reference, UNet, blending, guidance.

Letters in shape comments: ``B`` guidance branches (1 or 2), ``F`` frames of the clip, ``N`` windows
at once, ``K`` frames of a window, ``C h w`` latents, ``L D`` text tokens and width, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from magicanimate.device import to_device
from magicanimate.distributed import Team
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.deep_features import DeepFeatures
from magicanimate.models.driver import Driver
from magicanimate.models.reference import HybridSelfAttention, set_reference, set_visible
from magicanimate.models.shared_skips import SkipSharing
from magicanimate.models.unet import Turns, VideoUNet
from magicanimate.presets import Shortcuts
from magicanimate.speed import Speed


@dataclass(frozen=True)
class Conditions:
    """What steers the denoising of a clip.

    Attributes:
        reference: latents of the photo, ``1 C h w``.
        drivers: the signals of the motion, whose residuals are added (paper, table 1).
        text: embeddings ``B L D``, [negative, prompt] with guidance.
        guidance_scale: 1 or less means that ``text`` holds the prompt alone.
        control_scale: weight of the ControlNet's residuals.
        bank_dtype: round the reference bank to this type.
        reference_strength: see `magicanimate.models.reference`.
    """

    reference: torch.Tensor
    drivers: Sequence[Driver]
    text: torch.Tensor
    guidance_scale: float
    control_scale: float
    bank_dtype: torch.dtype | None = None
    reference_strength: float = 1.0


class WindowDenoiser:
    """Predicts the noise of a whole clip window by window.

    The ControlNets' residuals go to both guidance branches; the reference only to the conditional one.
    """

    def __init__(
        self,
        unet: VideoUNet,
        encoder: AppearanceEncoder,
        readers: Mapping[str, HybridSelfAttention],
        conditions: Conditions,
        speed: Speed,
        *,
        shortcuts: Shortcuts,
        skips: SkipSharing | None = None,
    ):
        self.unet, self.encoder = unet, encoder
        self.readers, self.conditions, self.speed = readers, conditions, speed
        self.skips = skips
        self.shortcuts, self.deep = shortcuts, DeepFeatures(unet, reuse=shortcuts.deep_reuse)
        text = conditions.text
        # Slices are made once: who keeps keys of a text knows it by the tensor.
        self.texts = [text[i : i + 1] for i in range(len(text))]
        alike = len(text) == 2 and torch.equal(text[0], text[1])
        if alike:
            self.texts = [self.texts[1]] * 2
        self.share_down = alike and not any(name.startswith("down_blocks") for name in readers)
        self._banks: dict[float, dict[str, torch.Tensor]] = {}
        self._read_at: float | None = None  # timestep of the bank that the readers have
        self._on_device: dict[tuple[type | float, ...], torch.Tensor] = {}

    def encode_ahead(self, timesteps: torch.Tensor) -> None:
        """Read the reference at all ``timesteps``, on the CPU; the encoder is not needed afterwards."""
        read_at = None
        for timestep in timesteps:
            if self._outdated(read_at, float(timestep)):
                read_at = float(timestep)
                self._banks[read_at] = self._bank(to_device(timestep, self.device))

    def rearrange(self, speed: Speed) -> None:
        """Go on in another arrangement from the next step, with as much kept as before or less."""
        if speed.window_batch != self.speed.window_batch:
            self.deep = DeepFeatures(self.unet, reuse=self.shortcuts.deep_reuse)  # kept for other windows
        self.speed = speed
        for driver in self.conditions.drivers:
            if driver.maps is not None and not speed.keep_maps:
                driver.maps.stop_keeping()

    def start_step(self, timestep: torch.Tensor, *, guided: bool = True) -> None:
        """Begin a step: read the reference at ``timestep``, forget the predictions of the last step.

        Args:
            timestep: of the step, on the CPU: decisions go by its number, and reading that from the device
                would wait for all the work that is queued there.
            guided: predict all branches, else the conditional one only.
        """
        self.at, self.timestep = float(timestep), to_device(timestep, self.device)
        if self._outdated(self._read_at, self.at):
            bank = self._banks.get(self.at) or self._bank(self.timestep)
            self._read_at = self.at
            set_reference(self.readers, bank, strength=self.conditions.reference_strength)
        self.branches = len(self.texts) if guided else 1
        self.visible = [False, True][-self.branches :]  # who sees the reference
        self.sum: torch.Tensor | None = None
        self.weight: torch.Tensor | None = None
        self._residuals: dict[int, list[torch.Tensor]] = {}

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.conditions.reference.device

    def _outdated(self, read_at: float | None, at: float) -> bool:
        return read_at is None or read_at - at > self.shortcuts.encoder_reuse

    def _kept_on_device(self, numbers: Sequence[float]) -> torch.Tensor:
        """Frame numbers or weights on the device, copied there when they are first asked for.

        Most plans have the same windows in every step.
        """
        key = (type(numbers[0]), *numbers)  # (1,) and (1.0,) are equal, yet one is a frame and one a weight
        if key not in self._on_device:
            self._on_device[key] = to_device(torch.tensor(numbers), self.device)
        return self._on_device[key]

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
        frames = torch.cat([latents.index_select(2, self._kept_on_device(window)) for window in windows])
        frames = frames.to(self.unet.dtype)  # N C K h w
        predicted = self._predict(latents, frames, windows, following)  # B N C K h w
        self._begin_sums(latents)
        for i, window in enumerate(windows):
            index, weight = self._kept_on_device(window), self._kept_on_device(weights[i])
            self.sum.index_add_(2, index, predicted[:, i].float() * weight.view(-1, 1, 1))
            self.weight.index_add_(0, index, weight)

    def _predict(
        self,
        latents: torch.Tensor,
        frames: torch.Tensor,
        windows: Sequence[list[int]],
        following: Sequence[list[int]],
    ) -> torch.Tensor:
        """Predictions ``B N C K h w``, in full or from deep features that a step before left."""
        branches = self.branches
        kept = self.deep.find(windows, self.at, branches=branches)
        if kept is not None:
            return self._predict_in_turn(frames, [kept.residual], kept.deep)
        residuals = self._control(latents, windows, following)
        with self.deep.recorded(windows, self.at, residuals[0], branches=branches):
            if self.speed.halves_in_turn:
                return self._predict_in_turn(frames, residuals)
            return self._predict_together(frames, residuals)

    def _predict_together(self, frames: torch.Tensor, residuals: list[torch.Tensor]) -> torch.Tensor:
        """Both branches as one batch: first all windows of the unconditional one."""
        count = len(frames)
        set_visible(self.readers, [seen for seen in self.visible for _ in range(count)])
        repeated = [residual.repeat(self.branches, 1, 1, 1) for residual in residuals]
        predicted = self.unet(
            frames.repeat(self.branches, 1, 1, 1, 1),
            self.timestep,
            self.conditions.text[-self.branches :].repeat_interleave(count, dim=0),
            down_block_additional_residuals=repeated[:-1],
            mid_block_additional_residual=repeated[-1],
            return_dict=False,
        )[0]
        return predicted.unflatten(0, (self.branches, count))

    def _predict_in_turn(
        self,
        frames: torch.Tensor,
        residuals: list[torch.Tensor],
        deep: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """One branch after the other, the down path once for both where nothing tells them apart."""
        rows = frames.shape[0] * frames.shape[2]
        turns = Turns(
            texts=[self._text(text, rows) for text in self.texts[-self.branches :]],
            before=lambda i: set_visible(self.readers, [self.visible[i]]),
            share_down=self.share_down,
            deep=deep,
            skips=self.skips if self.speed.share_skips else None,
        )
        predicted = self.unet(
            frames,
            self.timestep,
            turns=turns,
            down_block_additional_residuals=residuals if deep else residuals[:-1],
            mid_block_additional_residual=None if deep else residuals[-1],
        )
        return torch.stack(predicted)

    def _text(self, text: torch.Tensor, rows: int) -> torch.Tensor:
        """``1 L D``, or repeated for the cross-attentions that want a text for each frame."""
        return text if self.speed.keep_keys else text.expand(rows, -1, -1)

    def _control(
        self, latents: torch.Tensor, windows: Sequence[list[int]], following: Sequence[list[int]]
    ) -> list[torch.Tensor]:
        """Residuals of the ControlNets for the windows, ``(N K) C' h' w'`` each, the middle block's last."""
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
        noisy = latents[0].index_select(1, self._kept_on_device(frames))
        noisy = noisy.transpose(0, 1).to(self.unet.dtype)  # C K h w -> K C h w
        text = self._text(self.texts[-1], len(frames))
        each = [
            driver.residuals(frames, noisy, self.timestep, text, scale=given.control_scale)
            for driver in given.drivers
        ]
        return [reduce(torch.add, level) for level in zip(*each, strict=True)]

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
