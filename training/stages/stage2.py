"""Stage "stage2": only the temporal layers learn, on clips; everything else is frozen.

Source: MagicAnimate paper, supplement section 3 (second stage).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from magicanimate.models.reference import install_hybrid_attention, set_reference
from training.config import NetworkConfig, StageConfig
from training.data import DancerData, step_generator, to_control, to_images
from training.diffusion import sample_latents, velocity_loss
from training.networks import build_scheduler, build_video_unet
from training.pictures import psnr, save_grid
from training.stages.base import BaseStage, soften_control


class Stage2:
    """Velocity prediction of a clip's latents with the frozen networks of the base stage."""

    def __init__(self, config: StageConfig, network: NetworkConfig, data: DancerData, base: BaseStage):
        clip = data.rgb.shape[1] - data.stills
        if clip < config.num_frames:
            raise ValueError(f"the clips have {clip} frames, training wants {config.num_frames}")
        self.config, self.data, self.vae = config, data, base.vae
        self.latents = base.latents
        torch.manual_seed(config.seed)
        self.unet = build_video_unet(network)
        load_image_weights(self.unet, base.unet)
        self.encoder, self.controlnet = (
            base.encoder.requires_grad_(False),
            base.controlnet.requires_grad_(False),
        )
        self.unet.requires_grad_(False)
        for name, p in self.unet.motion_parameters().items():
            p.requires_grad_(True)
            if ".proj_out." in name:
                nn.init.zeros_(p)  # as AnimateDiff does: untrained temporal layers change nothing
        self.networks = {"unet": self.unet}
        self.readers = install_hybrid_attention(self.unet, fusion="midup")
        self.scheduler = build_scheduler()
        self.text = base.text

    def loss(self, step: int) -> torch.Tensor:
        rng = step_generator(self.config.seed, step)
        batch = self.config.batch_size
        person = rng.choice(self.data.train, batch)
        frames = self._frames(rng)
        reference = rng.integers(self.data.rgb.shape[1], size=batch)
        clean = torch.from_numpy(self.latents[person][:, frames]).float().transpose(1, 2)  # B C F h w
        shown = torch.from_numpy(self.latents[person, reference]).float()
        control = soften_control(to_control(self.data.parts[person][:, frames]).flatten(0, 1), rng)
        visible = torch.from_numpy(rng.random(batch) >= self.config.drop_reference)

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.predict(noisy, timesteps, shown, control, visible=visible)

        share_noise = bool(rng.random() < self.config.share_noise)
        return velocity_loss(self.scheduler, clean, predict, rng, share_noise=share_noise)

    def _frames(self, rng: np.random.Generator) -> np.ndarray:
        """Consecutive frames of the clip; with ``image_probability`` a single one (joint training)."""
        count = 1 if rng.random() < self.config.image_probability else self.config.num_frames
        first = self.data.stills + rng.integers(self.data.rgb.shape[1] - self.data.stills - count + 1)
        return np.arange(first, first + count)

    def predict(self, noisy, timesteps, shown, control, *, visible=None) -> torch.Tensor:
        """Velocity ``B C F h w``; ``control`` is ``(B F) 3 H W``."""
        batch, _, frames = noisy.shape[:3]
        text = self.text.expand(batch, -1, -1)
        with torch.no_grad():
            bank = self.encoder(shown, timesteps, text)
            down, mid = self.controlnet(
                noisy.transpose(1, 2).flatten(0, 1),
                timesteps.repeat_interleave(frames),
                text.repeat_interleave(frames, dim=0),
                controlnet_cond=control,
                return_dict=False,
            )
        set_reference(self.readers, bank, visible=visible)
        return self.unet(
            noisy,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out clips: every third frame of result and truth; error of frame-to-frame changes."""
        people = self.data.held_out[:4]
        frames = self.data.stills + np.arange(self.config.num_frames)
        shown = torch.from_numpy(self.latents[people, 0]).float()
        control = to_control(self.data.parts[people][:, frames]).flatten(0, 1)
        shape = (len(people), shown.shape[1], len(frames), *shown.shape[2:])
        latents = sample_latents(
            self.scheduler, shape, lambda noisy, t: self.predict(noisy, t, shown, control)
        )
        result = self.vae.decode(latents.transpose(1, 2).flatten(0, 1)).sample.clamp(-1, 1)
        truth = to_images(self.data.rgb[people][:, frames]).flatten(0, 1)
        rows = [x.unflatten(0, shape[:1] + (len(frames),))[:2, ::3].flatten(0, 1) for x in (result, truth)]
        save_grid(folder / f"{step:06d}.png", rows)
        changes = [x.unflatten(0, (len(people), len(frames))).diff(dim=1) for x in (result, truth)]
        return {"psnr": psnr(result, truth), "change_error": float(functional.l1_loss(*changes))}


def load_image_weights(video_unet, image_unet) -> None:
    """Copy the image UNet's weights; only the temporal layers may be without a value.

    Raises:
        ValueError: the two networks differ in more than the temporal layers.
    """
    missing, unexpected = video_unet.load_state_dict(image_unet.state_dict(), strict=False)
    strangers = [k for k in missing if ".motion_modules." not in k] + list(unexpected)
    if strangers:
        raise ValueError(f"the image UNet does not fit the video UNet: {strangers[:3]}")
