"""The stages from "base" to "sharpen": one denoiser, of which other parts learn.

| stage | learns | reference | UNet |
|---|---|---|---|
| base | everything (the mini has no Stable Diffusion to begin with) | yes | without temporal layers |
| controlnet | ControlNet | none | without, frozen |
| stage1 | appearance encoder, ControlNet | yes | without, frozen |
| stage2 | temporal layers | yes | with |
| distill | appearance encoder, temporal layers, or all, see `training.stages.distill` | yes | with |
| sharpen | the autoencoder's decoder, see `training.stages.sharpen` | yes | with, frozen |

Stage2 mixes three kinds of steps (paper, section 3.5): a draw of up to tau_1 takes images, which are their
own references; from tau_1 to tau_2 single frames of the videos, whose reference is another frame; above,
clips. On single pictures the temporal layers have nothing to attend to but the picture itself, so they learn
to leave its quality alone, which clips by themselves degrade; images add people and places that the videos
lack.

Source: MagicAnimate paper, sections 3.4 and 3.5, and supplement, sections 2 and 3.

Letters in shape comments: ``B`` samples, ``F`` frames of a clip, or targets of one reference before stage2,
``C h w`` latents, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, default_collate

from magicanimate.errors import InputError
from magicanimate.models.appearance_encoder import with_photo_map
from magicanimate.models.hybrid_attention import install_hybrid_attention, set_reference
from training.attention_loss import attention_losses, point_losses, watch
from training.config import SIGNALS, Stage, StageConfig
from training.data.draws import Stream, generator
from training.data.tensors import draw_labels, labels_of
from training.diffusion import (
    SAMPLING_STEPS,
    denoising_losses,
    draw_noise,
    draw_timestep,
    same_noise,
    sample_latents,
)
from training.latents import Latents
from training.pictures import psnr, save_grid, save_video, sharpness

MOTION = ".motion_modules."
SAMPLED = 8
SAMPLED_CLIPS = 4


def controlnet_names(config: StageConfig) -> tuple[str, ...]:
    """Names of the ControlNets, one per driving signal: the first is always "controlnet"."""
    return ("controlnet", "controlnet_keypoints")[: len(SIGNALS[config.driving])]


class Denoiser(nn.Module):
    """Predicts noise or velocity of the target's latents from the reference and the target's motion signal.

    Args:
        config: of the stage.
        networks: "unet" (2-D, in stage2 with temporal layers), "appearance_encoder" unless the stage has no
            reference, and the ControlNets by `controlnet_names`.
        text: embedding of the empty prompt, ``1 L D``.
        scheduler: noise schedule.
        latents, samples: of the training data.
        held_out: samples to show.
        channel_weights: of the latent channels in the loss, ``C``, with mean 1; all alike when ``None``.

    Raises:
        InputError: the loss goes by part maps, and they drive nothing.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Mapping[str, nn.Module],
        *,
        text: torch.Tensor,
        scheduler: DDIMScheduler,
        latents: Latents,
        samples: Dataset,
        held_out: Dataset,
        channel_weights: torch.Tensor | None = None,
    ):
        super().__init__()
        self.config, self.scheduler, self.samples = config, scheduler, samples
        self.latents, self.held_out = latents, held_out
        for name, network in networks.items():
            self.add_module(name, network)
        self.sampling_steps = SAMPLING_STEPS
        self.has_reference = "appearance_encoder" in networks
        # diffusers' sum of the ControlNets' residuals; in a tuple, as each is registered by its own name.
        self._controlnets = (MultiControlNetModel([networks[name] for name in controlnet_names(config)]),)
        self.readers = install_hybrid_attention(self.unet, fusion=config.fusion) if self.has_reference else {}
        self._teaches_looks = bool(config.loss.attention_weight and self.readers)
        if self._teaches_looks:
            if config.loss.attention_by == "parts" and "densepose" not in SIGNALS[config.driving]:
                raise InputError(
                    "attention_weight goes by part maps; leave it at 0, or drive with densepose or both."
                )
            if config.loss.attention_by == "points" and "points" not in samples[0]:
                raise InputError(
                    "attention_by points needs rendered dancers, whose size is a multiple of the training's, "
                    "and no other images; choose attention_by parts."
                )
            self.readers = watch(self.unet, self.readers)
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("channel_weights", channel_weights, persistent=False)
        self.has_time = hasattr(self.unet, "motion_parameters")
        choose_trained(self, config.stage)
        if config.gradient_checkpointing:
            for network in networks.values():
                network.enable_gradient_checkpointing()

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples, see `training.data.samples`, that know their ``index``."""
        rngs = [self._noise_generator(index) for index in batch["index"].tolist()]
        config, device = self.config, self.text.device
        clean = self.latents.target(batch)
        control = self._control(batch)
        count = self.scheduler.config.num_train_timesteps
        timesteps = torch.tensor(
            [draw_timestep(rng, config.loss, count=count) for rng in rngs], device=device
        )
        visible = [rng.random() >= config.drop_reference for rng in rngs]
        shared = [rng.random() < config.share_noise for rng in rngs]
        noise = torch.stack(
            [draw_noise(rng, tuple(clean.shape[1:]), share=s) for rng, s in zip(rngs, shared, strict=True)]
        ).to(device)
        if config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        predicted = self.predict(noisy, timesteps, self._shown(batch), control, visible=visible)
        losses = denoising_losses(
            self.scheduler,
            config.loss,
            predicted,
            clean,
            noise,
            timesteps,
            channel_weights=self.channel_weights,
        )
        if self._teaches_looks:
            looks = self._look_losses(batch, size=tuple(clean.shape[-2:]))
            losses = losses + config.loss.attention_weight * looks * torch.tensor(visible, device=device)
        return losses

    def _control(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The driving signals, float32 ``B F 3 H W``; part maps are drawn here if they come as labels."""
        control = dict(batch["control"])
        if "labels" in batch and "densepose" in SIGNALS[self.config.driving]:
            control["densepose"] = draw_labels(batch["labels"])
        return control

    def _shown(self, batch: Mapping[str, Any]) -> torch.Tensor | None:
        """What the appearance encoder takes of the references, ``B C h w``; ``None`` without them."""
        if not self.has_reference:
            return None
        latents = self.latents.reference(batch)
        if not self.appearance_encoder.takes_photo_map:
            return latents
        labels = batch.get("reference_photo_labels")
        return with_photo_map(latents, self._labels(batch)[0] if labels is None else labels)

    def _labels(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Part ids of the references ``B H W`` and of the targets ``B F H W``."""
        if "labels" in batch:
            return batch["reference_labels"], batch["labels"]
        drawn = batch["reference_control"]["densepose"], batch["control"]["densepose"]
        return labels_of(drawn[0]), labels_of(drawn[1])

    def _look_losses(self, batch: Mapping[str, Any], *, size: tuple[int, int]) -> torch.Tensor:
        """How far the blocks' attention is from where it should be, ``B``."""
        if self.config.loss.attention_by == "parts":
            return attention_losses(self.readers, *self._labels(batch), size=size)
        return point_losses(self.readers, batch["reference_points"], batch["points"], size=size)

    def _noise_generator(self, index: int) -> np.random.Generator:
        step, place = divmod(index, self.config.samples_a_step)
        return generator(Stream.NOISE, self.config.seed, step, place)

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        shown: torch.Tensor | None,
        control: Mapping[str, torch.Tensor],
        *,
        visible: Sequence[bool] | None = None,
    ) -> torch.Tensor:
        """What the networks make of noisy latents.

        Args:
            noisy: ``B C F h w``.
            timesteps: ``B``.
            shown: what the appearance encoder takes of the references, ``B C h w``; ``None`` without them.
            control: driving signals by name, ``B F 3 H W`` in [0, 1].
            visible: for each sample, whether it sees its reference; all do when ``None``.

        Returns:
            ``B C F h w``.
        """
        samples, frames = noisy.shape[0], noisy.shape[2]
        text = self.text.expand(samples, -1, -1)
        pictures = noisy.transpose(1, 2).flatten(0, 1)  # B C F h w -> (B F) C h w
        each_timestep, each_text = (x.repeat_interleave(frames, dim=0) for x in (timesteps, text))
        if shown is not None:
            set_reference(self.readers, self.appearance_encoder(shown, timesteps, text), visible=visible)
        signals = [control[name].flatten(0, 1) for name in SIGNALS[self.config.driving]]
        down, mid = self._controlnets[0](
            pictures,
            each_timestep,
            each_text,
            controlnet_cond=signals,
            conditioning_scale=[1.0] * len(signals),
            return_dict=False,
        )
        inputs = (noisy, timesteps, text) if self.has_time else (pictures, each_timestep, each_text)
        predicted = self.unet(
            *inputs,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return predicted if self.has_time else predicted.unflatten(0, (samples, frames)).transpose(1, 2)

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out samples: reference, motion, result and truth as a grid, clips as a video too."""
        count = SAMPLED_CLIPS if self.has_time else SAMPLED
        count = min(count, len(self.held_out))
        batch = default_collate([self.held_out[k] for k in range(count)])
        batch = {key: _moved(value, self.text.device) for key, value in batch.items()}
        shown, control = self._shown(batch), self._control(batch)
        latents = sample_latents(
            self.scheduler,
            same_noise(self.latents.target(batch)),
            lambda noisy, t: self.predict(noisy, t, shown, control),
            steps=self.sampling_steps,
        )
        result, truth = self.latents.decode(latents).cpu(), batch["target"].cpu()
        photo = batch["reference"].cpu()[:, None].expand_as(truth)
        drawn = next(iter(control.values())).cpu() * 2 - 1
        rows = [x[:, :: max(1, x.shape[1] // 2)].flatten(0, 1) for x in (photo, drawn, result, truth)]
        save_grid(folder / f"{step:06d}.png", rows)
        flat = result.flatten(0, 1), truth.flatten(0, 1)
        figures = {"psnr": psnr(*flat), "sharpness": sharpness(*flat)}
        if truth.shape[1] > 1:
            save_video(folder / f"{step:06d}.mp4", [photo, drawn, result, truth])
            changes = [x.diff(dim=1) for x in (result, truth)]
            figures["change_error"] = float(functional.l1_loss(*changes))
        elif self.has_reference:
            figures["psnr_copying_photo"] = psnr(photo.flatten(0, 1), truth.flatten(0, 1))
        return figures


def choose_trained(denoiser: nn.Module, stage: Stage, *, everything: bool = False) -> None:
    """Require gradients of the parameters that learn in ``stage``, and of no others.

    ``everything``: in "distill" the whole student learns.
    """
    controlnets = ("controlnet.", "controlnet_keypoints.")
    learning = {
        "base": ("unet.", "appearance_encoder.", *controlnets),
        "controlnet": controlnets,
        "stage1": ("appearance_encoder.", *controlnets),
        "stage2": (),
        "distill": ("appearance_encoder.", "discriminator."),
        "sharpen": ("vae.decoder.", "discriminator."),
    }[stage]
    if everything:
        learning += ("unet.", *controlnets)
    if stage in ("stage2", "distill"):
        learning += tuple(name for name, _ in denoiser.unet.named_parameters("unet") if MOTION in name)
    for name, p in denoiser.named_parameters():
        p.requires_grad_(name.startswith(learning))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(inner, device) for key, inner in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def softened(maps: torch.Tensor, rngs: list[np.random.Generator]) -> torch.Tensor:
    """Blend and disturb drawn maps (``B F 3 H W`` in [0, 1]) a little, as resized video does.

    Each sample is mixed with its blurred copy in a share of its own, and each frame's colours are shifted.
    """
    share = torch.tensor([rng.random() for rng in rngs], dtype=maps.dtype)
    shift = np.stack([rng.normal(0, 0.01, (maps.shape[1], 3, 1, 1)) for rng in rngs])
    share, shift = share.to(maps.device), torch.from_numpy(shift).to(maps)
    flat = maps.flatten(0, 1)
    small = functional.interpolate(flat, scale_factor=0.75, mode="bilinear", antialias=True)
    blurred = functional.interpolate(small, size=flat.shape[-2:], mode="bilinear").view_as(maps)
    return (torch.lerp(maps, blurred, share.view(-1, 1, 1, 1, 1)) + shift).clamp(0, 1)
