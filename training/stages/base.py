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
        self.weight = channel_weights(vae, torch.from_numpy(self.latents[:16, 0]).float())

    @torch.no_grad()
    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.vae.encode(images).latent.float()

    def loss(self, step: int) -> torch.Tensor:
        rng = step_generator(self.config.seed, step)
        batch, targets = self.config.batch_size // self.config.targets, self.config.targets
        person = rng.choice(self.data.train, batch)
        reference, target = self._pictures(rng, batch)
        clean = self._latents(person[:, None], target).flatten(0, 1)
        shown = self._latents(person, reference)
        control = soften_control(to_control(self.data.parts[person[:, None], target]).flatten(0, 1), rng)
        visible = torch.from_numpy(rng.random(batch) >= self.config.drop_reference)

        def predict(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            return self.predict(noisy, timesteps, shown, control, visible=visible)

        return velocity_loss(
            self.scheduler,
            clean,
            predict,
            rng,
            share_timestep=targets,
            noisy_share=self.config.noisy_share,
            noisy_from=self.config.noisy_from,
            weight=self.weight,
        )

    def _pictures(self, rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """Which picture is the reference ``B`` and which are the targets ``B T``.

        With ``clip_share`` all are frames of the clip; else the reference is a still, which differs in pose,
        place and size as a user's photo differs from a clip. With ``image_probability`` the reference is the
        first target: the image joint training of the paper (supplement, section 3, tau_0).
        """
        stills, pictures, shape = self.data.stills, self.data.rgb.shape[1], (batch, self.config.targets)
        one_clip = rng.random(batch) < self.config.clip_share
        reference = np.where(
            one_clip, rng.integers(stills, pictures, batch), rng.integers(stills, size=batch)
        )
        target = rng.integers(np.where(one_clip, stills, 0)[:, None], pictures, shape)
        same = rng.random(batch) < self.config.image_probability
        return np.where(same, target[:, 0], reference), target

    def _latents(self, person: np.ndarray, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.latents[person, index]).float()

    def predict(self, noisy, timesteps, shown, control, *, visible=None) -> torch.Tensor:
        """Velocity ``(B T) C h w`` of noisy latents, from part-map colours and references ``B ...``."""
        text, targets = self.text.expand(len(noisy), -1, -1), len(noisy) // len(shown)
        set_reference(
            self.readers, self.encoder(shown, timesteps[::targets], text[: len(shown)]), visible=visible
        )
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
        """Pictures of held-out people (photo, part map, result, truth) and how near they come to the truth.

        The photo is a still of another pose and place, or the clip's first frame (figures ``clip_...``).
        """
        people, first = self.data.held_out, self.data.stills
        last = self.data.rgb.shape[1] - 1
        figures, rows = {}, []
        for name, reference, target in (("", 0, last), ("clip_", first, (first + last) // 2)):
            control = to_control(self.data.parts[people, target])
            truth = to_images(self.data.rgb[people, target])
            photo = to_images(self.data.rgb[people, reference])
            shown = self._latents(people, reference)
            latents = sample_latents(
                self.scheduler,
                tuple(shown.shape),
                lambda noisy, t, shown=shown, control=control: self.predict(noisy, t, shown, control),
            )
            result = self.vae.decode(latents).sample
            rows += [x[:10] for x in (photo, control * 2 - 1, result, truth)]
            figures[f"{name}psnr"] = psnr(result, truth)
            figures[f"{name}psnr_copying_photo"] = psnr(photo, truth)
        save_grid(folder / f"{step:06d}.png", rows)
        return figures


@torch.no_grad()
def channel_weights(vae, latents: torch.Tensor) -> torch.Tensor:
    """Weight of each latent channel in the loss, ``C 1 1`` with mean 1: how much it shows in the picture.

    The root of the change of the pixels per change of the channel: all channels have unit size, but some
    carry the picture and others only its grain.

    Args:
        vae: autoencoder with normalized latents.
        latents: ``N C h w`` to measure at.
    """
    picture, step = vae.decode(latents).sample, 0.1
    changes = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += step
        changes.append((vae.decode(moved).sample - picture).square().mean().sqrt())
    weights = torch.stack(changes).sqrt()
    return (weights / weights.mean()).view(-1, 1, 1)


def soften_control(control: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blend and disturb part-map colours (``B 3 H W`` in [0, 1]) a little, as resized video does."""
    size = control.shape[-1]
    smaller = int(rng.integers(size * 3 // 4, size + 1))
    control = functional.interpolate(control, size=smaller, mode="area")
    control = functional.interpolate(control, size=size, mode="bilinear", align_corners=False)
    noise = torch.from_numpy(rng.normal(0, 0.01, (len(control), 3, 1, 1))).float()
    return (control + noise).clamp(0, 1)
