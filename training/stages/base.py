"""Stage "base": UNet, appearance encoder and ControlNet learn together on pairs of frames, from nothing.

The paper starts from Stable Diffusion; the mini has no such start, so its first stage teaches the UNet too.
Reference and target are two pictures of one person before one background.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from magicanimate.models.reference import install_hybrid_attention, set_reference
from training.config import NetworkConfig, StageConfig
from training.data import DancerData, encode_all, step_generator, to_control, to_images
from training.diffusion import sample_latents, velocity_loss
from training.networks import build_appearance_encoder, build_controlnet, build_image_unet, build_scheduler
from training.pictures import psnr, save_grid


class BaseStage:
    """Velocity prediction of the target's latents from the reference and the target's part map."""

    def __init__(
        self, config: StageConfig, network: NetworkConfig, data: DancerData, vae, latents_file: Path
    ):
        self.config, self.data, self.vae = config, data, vae
        self.latents = encode_all(data, latents_file, self._encode)
        torch.manual_seed(config.seed)
        self.unet = build_image_unet(network)
        self.encoder = build_appearance_encoder(network)
        self.controlnet = build_controlnet(network)
        self.networks = {"unet": self.unet, "appearance_encoder": self.encoder, "controlnet": self.controlnet}
        self.readers = install_hybrid_attention(self.unet, fusion="midup")
        self.scheduler = build_scheduler()
        self.text = torch.zeros(1, network.text_tokens, network.text_width)

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.vae.encode(images).latent.float()

    def loss(self, step: int) -> torch.Tensor:
        rng = step_generator(self.config.seed, step)
        batch = self.config.batch_size
        person = rng.choice(self.data.train, batch)
        target = rng.integers(self.data.rgb.shape[1], size=batch)
        reference = self._reference_index(rng, target)
        clean, shown = self._latents(person, target), self._latents(person, reference)
        control = soften_control(to_control(self.data.parts[person, target]), rng)
        visible = torch.from_numpy(rng.random(batch) >= self.config.drop_reference)

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.predict(noisy, timesteps, shown, control, visible=visible)

        return velocity_loss(self.scheduler, clean, predict, rng)

    def _reference_index(self, rng: np.random.Generator, target: np.ndarray) -> np.ndarray:
        """A still, or for a third any picture; with ``image_probability`` the target itself.

        A still differs in pose, place and size, as a user's photo differs from the clip. Reference equal to
        target is the image joint training of the paper (supplement, section 3, tau_0).
        """
        count = len(target)
        still = rng.integers(self.data.stills, size=count)
        anything = rng.integers(self.data.rgb.shape[1], size=count)
        index = np.where(rng.random(count) < 1 / 3, anything, still)
        return np.where(rng.random(count) < self.config.image_probability, target, index)

    def _latents(self, person: np.ndarray, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.latents[person, index]).float()

    def predict(self, noisy, timesteps, shown, control, *, visible=None) -> torch.Tensor:
        """Velocity ``B C h w`` for noisy latents, given reference latents and part-map colours."""
        text = self.text.expand(len(noisy), -1, -1)
        set_reference(self.readers, self.encoder(shown, timesteps, text), visible=visible)
        down, mid = self.controlnet(noisy, timesteps, text, controlnet_cond=control, return_dict=False)
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
        """Pictures of held-out people: photo, part map, result, truth."""
        people = self.data.held_out
        last = self.data.rgb.shape[1] - 1
        control = to_control(self.data.parts[people, last])
        truth = to_images(self.data.rgb[people, last])
        photo = to_images(self.data.rgb[people, 0])
        shown = torch.from_numpy(self.latents[people, 0]).float()
        latents = sample_latents(
            self.scheduler, tuple(shown.shape), lambda noisy, t: self.predict(noisy, t, shown, control)
        )
        result = self.vae.decode(latents).sample
        save_grid(folder / f"{step:06d}.png", [x[:10] for x in (photo, control * 2 - 1, result, truth)])
        return {"psnr": psnr(result, truth), "psnr_copying_photo": psnr(photo, truth)}


def soften_control(control: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blend and disturb part-map colours (``B 3 H W`` in [0, 1]) a little, as resized video does."""
    size = control.shape[-1]
    smaller = int(rng.integers(size * 3 // 4, size + 1))
    control = functional.interpolate(control, size=smaller, mode="area")
    control = functional.interpolate(control, size=size, mode="bilinear", align_corners=False)
    noise = torch.from_numpy(rng.normal(0, 0.01, (len(control), 3, 1, 1))).float()
    return (control + noise).clamp(0, 1)
