"""The stages that train the denoiser ("base" to "stage2"), and what "distill" and "sharpen" share with them.

One module for all of them: UNet, appearance encoder and ControlNets; a stage decides which of their
parameters learn.

| stage | learns | reference | UNet |
|---|---|---|---|
| base | everything (the mini has no Stable Diffusion to start from) | yes | without temporal layers |
| controlnet | ControlNet | none | without, frozen |
| stage1 | appearance encoder, ControlNet | yes | without, frozen |
| stage2 | temporal layers | yes | with |
| distill | appearance encoder, temporal layers, or all, see `training.stages.distill` | yes | with |
| sharpen | the autoencoder's decoder, see `training.stages.sharpen` | yes | with, frozen |

Stage2 is image-video joint training (paper, section 3.5): each step draws r from U(0, 1). With r up to tau_1
it trains on images, which are their own references; up to tau_2 on single frames of the videos, with another
frame as the reference; above that on clips. For a single image the temporal layers can attend to nothing but
itself, so they learn not to harm its quality, which training on clips alone degrades; and images add people
and places that the videos lack.

Source: MagicAnimate, sections 3.4 and 3.5, and supplement, sections 2 and 3.

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
from magicanimate.photo_warp import PhotoWarp
from training.attention_loss import attention_losses, point_losses, watch
from training.config import SIGNALS, Stage, StageConfig
from training.data.draws import Stream, generator
from training.data.tensors import draw_labels, labels_of, to_images
from training.diffusion import (
    SAMPLING_STEPS,
    denoising_losses,
    draw_noise,
    draw_timestep,
    noise_in,
    same_noise,
    sample_latents,
)
from training.latents import Latents
from training.pictures import psnr, save_grid, save_video, sharpness

TEMPORAL_LAYERS = ".motion_modules."
"""Part of the names of the temporal layers' parameters in diffusers' UNetMotionModel."""

SAMPLED, SAMPLED_CLIPS = 8, 4
"""How many validation samples are shown, single images and clips."""


def controlnet_names(config: StageConfig) -> tuple[str, ...]:
    """Names of the ControlNets, one per control signal; the first is always "controlnet"."""
    return ("controlnet", "controlnet_keypoints")[: len(SIGNALS[config.driving])]


class Denoiser(nn.Module):
    """Predicts the noise or velocity in the target's latents from its reference and its control images.

    Args:
        config: settings of the stage.
        networks: "unet" (2-D, from stage2 on with temporal layers), "appearance_encoder" unless the stage has
            no reference, and the ControlNets, named by `controlnet_names`.
        text: embedding of the empty prompt, ``1 L D``.
        scheduler: the noise schedule.
        latents: encodes samples, or finds their latents in them.
        samples: training samples.
        held_out: validation samples.
        channel_weights: loss weights of the latent channels, ``C`` with mean 1; equal when ``None``.

    Attributes:
        readers: the hybrid attention processors by block; empty without a reference.

    Raises:
        InputError: the attention loss needs part maps or body points that the data do not have.
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
        self.sampling_steps = config.own_steps or SAMPLING_STEPS  # of the samples that are looked at
        self.has_reference = "appearance_encoder" in networks
        # Adds up the ControlNets' residuals. In a tuple, so that it is not registered as a module: the
        # ControlNets already are, under their own names, which checkpoints use.
        self._controlnets = (MultiControlNetModel([networks[name] for name in controlnet_names(config)]),)
        self.readers = install_hybrid_attention(self.unet, fusion=config.fusion) if self.has_reference else {}
        self._has_attention_loss = bool(config.loss.attention_weight and self.readers)
        if self._has_attention_loss:
            if config.loss.attention_by == "parts" and "densepose" not in SIGNALS[config.driving]:
                raise InputError(
                    "attention_weight goes by part maps; leave it at 0, or drive with densepose or both."
                )
            # Looks at one sample, since only the opened data know what they bring.
            if config.loss.attention_by == "points" and "points" not in samples[0]:
                raise InputError(
                    "attention_by points needs rendered dancers, whose size is a multiple of the training's, "
                    "and no other images; choose attention_by parts."
                )
            self.readers = watch(self.unet, self.readers)
        # Buffers move to the device with the module; not persistent, as checkpoints need not hold them.
        self.register_buffer("text", text, persistent=False)
        self.register_buffer("channel_weights", channel_weights, persistent=False)
        self.has_temporal_layers = hasattr(self.unet, "motion_parameters")
        choose_trained(self, config.stage)
        if config.gradient_checkpointing:
            for network in networks.values():
                network.enable_gradient_checkpointing()

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of `training.data.samples` with their global ``index``."""
        # One generator per sample, seeded by its global index: see the promise in training.loop.
        rngs = [self._noise_generator(index) for index in batch["index"].tolist()]
        config, device = self.config, self.text.device
        clean = self.latents.target(batch)
        control = self._control(batch)
        count = self.scheduler.config.num_train_timesteps
        timesteps = torch.tensor(
            [draw_timestep(rng, config.loss, count=count) for rng in rngs], device=device
        )
        # The unconditional case of classifier-free guidance is a sample without its reference.
        visible = [rng.random() >= config.drop_reference for rng in rngs]
        shared = [rng.random() < config.share_noise for rng in rngs]
        noise = self.first_latents(batch, rngs, tuple(clean.shape[1:]), share=shared)
        if config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        encoder_input = self._encoder_input(batch)
        if config.own_steps:
            step = int(batch["index"][0]) // config.samples_a_step
            noisy, timesteps = self._own_latents(noise, step, encoder_input, control, visible=visible)
            noise = noise_in(self.scheduler, noisy, clean, timesteps)
        else:
            noisy = self.scheduler.add_noise(clean, noise, timesteps)
        predicted = self.predict(noisy, timesteps, encoder_input, control, visible=visible)
        losses = denoising_losses(
            self.scheduler,
            config.loss,
            predicted,
            clean,
            noise,
            timesteps,
            channel_weights=self.channel_weights,
        )
        if self._has_attention_loss:
            attention = self._attention_losses(batch, size=tuple(clean.shape[-2:]))
            # A sample that does not see its reference cannot attend to it: its weight is 0.
            losses = losses + config.loss.attention_weight * attention * torch.tensor(visible, device=device)
        return losses

    @torch.no_grad()
    def _own_latents(
        self,
        noise: torch.Tensor,
        step: int,
        encoder_input: torch.Tensor | None,
        control: Mapping[str, torch.Tensor],
        *,
        visible: Sequence[bool],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents ``B C F h w`` that sampling has reached at one of its steps, and their timesteps ``B``.

        A network that samples in two steps meets no noised images in the second one, but what it made itself
        in the first, which is blurred; trained on these latents it learns to mend them.

        Args:
            noise: where sampling begins, ``B C F h w``.
            step: of the optimizer; all samples of it are at the same step of the sampling.
            encoder_input, control, visible: as in `predict`.
        """
        sampling = DDIMScheduler.from_config(self.scheduler.config)
        sampling.set_timesteps(self.config.own_steps)
        chosen = generator(Stream.SAMPLING_STEP, self.config.seed, step).integers(self.config.own_steps)
        latents = sample_latents(
            self.scheduler,
            noise,
            lambda noisy, t: self.predict(noisy, t, encoder_input, control, visible=visible),
            steps=self.config.own_steps,
            taken=chosen,
        )
        return latents, sampling.timesteps[chosen].to(noise.device).expand(len(noise))

    def first_latents(
        self,
        batch: Mapping[str, Any],
        rngs: Sequence[np.random.Generator],
        shape: tuple[int, ...],
        *,
        share: Sequence[bool],
    ) -> torch.Tensor:
        """What sampling begins with, ``B C F h w``: noise, or latents of the warped reference.

        Args:
            batch: as in `forward`.
            rngs: of the noise, one for each sample.
            shape: of a sample's latents, ``C F h w``.
            share: for each sample whether its frames have the same noise.
        """
        if self.config.first_latents == "noise" or not self.has_reference:
            noise = [draw_noise(rng, shape, share=s) for rng, s in zip(rngs, share, strict=True)]
            return torch.stack(noise).to(self.text.device)
        seen, poses = self._photo_labels(batch), self._labels(batch)[1]
        clips = zip(batch["reference"], seen, poses, strict=True)
        warped = torch.stack([_warped(*(part.cpu() for part in clip)) for clip in clips])
        return self.latents.target({"target": warped})

    def _control(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The control images by name, float32 ``B F 3 H W`` in [0, 1]; labels are drawn as part maps."""
        control = dict(batch["control"])
        if "labels" in batch and "densepose" in SIGNALS[self.config.driving]:
            control["densepose"] = draw_labels(batch["labels"])
        return control

    def _encoder_input(self, batch: Mapping[str, Any]) -> torch.Tensor | None:
        """The appearance encoder's input: latents ``B C h w``, with part maps if it takes them."""
        if not self.has_reference:
            return None
        latents = self.latents.reference(batch)
        if not self.appearance_encoder.takes_photo_map:
            return latents
        return with_photo_map(latents, self._photo_labels(batch))

    def _labelled(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with all the part maps that are needed; those of this class come with the samples."""
        return batch

    def _photo_labels(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Part ids of the references, ``B H W`` of any size."""
        # What the segmenter sees in the reference, if it was
        # precomputed; else the exact map stands in for it.
        labels = batch.get("reference_photo_labels")
        return self._labels(batch)[0] if labels is None else labels

    def _labels(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Part ids of the references, integers ``B H W``, and of the targets, ``B F H W``."""
        if "labels" in batch:
            return batch["reference_labels"], batch["labels"]
        # Drawn part maps carry the labels in their colours.
        drawn = batch["reference_control"]["densepose"], batch["control"]["densepose"]
        return labels_of(drawn[0]), labels_of(drawn[1])

    def _attention_losses(self, batch: Mapping[str, Any], *, size: tuple[int, int]) -> torch.Tensor:
        """Losses ``B`` on the hybrid attention of the last forward pass, see `training.attention_loss`."""
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
        encoder_input: torch.Tensor | None,
        control: Mapping[str, torch.Tensor],
        *,
        visible: Sequence[bool] | None = None,
    ) -> torch.Tensor:
        """The denoiser's prediction: appearance encoder, ControlNets and UNet on noisy latents.

        Args:
            noisy: noisy latents, ``B C F h w``.
            timesteps: ``B``.
            encoder_input: input of the appearance encoder, ``B C h w``; ``None`` without a reference.
            control: control images by name, ``B F 3 H W`` in [0, 1].
            visible: for each sample whether it sees its reference; all do when ``None``.

        Returns:
            ``B C F h w``.
        """
        samples, frames = noisy.shape[0], noisy.shape[2]
        text = self.text.expand(samples, -1, -1)
        # ControlNets are 2-D: every frame is a picture of its own for them.
        pictures = noisy.transpose(1, 2).flatten(0, 1)  # B C F h w -> (B F) C h w
        each_timestep, each_text = (x.repeat_interleave(frames, dim=0) for x in (timesteps, text))
        if encoder_input is not None:
            # The encoder sees the reference once per sample, at the sample's timestep; all frames attend to
            # the same y_a (section 3.2).
            set_reference(
                self.readers, self.appearance_encoder(encoder_input, timesteps, text), visible=visible
            )
        signals = [control[name].flatten(0, 1) for name in SIGNALS[self.config.driving]]
        down, mid = self._controlnets[0](
            pictures,
            each_timestep,
            each_text,
            controlnet_cond=signals,
            conditioning_scale=[1.0] * len(signals),
            return_dict=False,
        )
        # The video UNet takes 5-D latents and repeats timestep and text over the frames itself.
        inputs = (
            (noisy, timesteps, text) if self.has_temporal_layers else (pictures, each_timestep, each_text)
        )
        predicted = self.unet(
            *inputs,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return (
            predicted
            if self.has_temporal_layers
            else predicted.unflatten(0, (samples, frames)).transpose(1, 2)
        )

    @torch.no_grad()
    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Sample held-out data: a grid of reference, control, result and truth; clips also as a video."""
        count = SAMPLED_CLIPS if self.has_temporal_layers else SAMPLED
        count = min(count, len(self.held_out))
        batch = default_collate([self.held_out[k] for k in range(count)])
        batch = {key: _moved(value, self.text.device) for key, value in batch.items()}
        batch = self._labelled(batch)
        encoder_input, control = self._encoder_input(batch), self._control(batch)
        # The same noise at every step of the training, so that sheets can be compared.
        first = same_noise(self.latents.target(batch))
        if self.config.first_latents != "noise":
            first = self.first_latents(batch, (), tuple(first.shape[1:]), share=())
        latents = sample_latents(
            self.scheduler,
            first,
            lambda noisy, t: self.predict(noisy, t, encoder_input, control),
            steps=self.sampling_steps,
        )
        result, truth = self.latents.decode(latents).cpu(), batch["target"].cpu()
        photo = batch["reference"].cpu()[:, None].expand_as(truth)
        drawn = next(iter(control.values())).cpu() * 2 - 1
        # Two frames of a clip are enough on a sheet.
        rows = [x[:, :: max(1, x.shape[1] // 2)].flatten(0, 1) for x in (photo, drawn, result, truth)]
        save_grid(folder / f"{step:06d}.png", rows)
        flat = result.flatten(0, 1), truth.flatten(0, 1)
        figures = {"psnr": psnr(*flat), "sharpness": sharpness(*flat)}
        if truth.shape[1] > 1:
            save_video(folder / f"{step:06d}.mp4", [photo, drawn, result, truth])
            changes = [x.diff(dim=1) for x in (result, truth)]
            figures["change_error"] = float(functional.l1_loss(*changes))
        elif self.has_reference:
            # The figure that a network has to beat: the reference itself, unmoved.
            figures["psnr_copying_photo"] = psnr(photo.flatten(0, 1), truth.flatten(0, 1))
        return figures


def choose_trained(denoiser: nn.Module, stage: Stage, *, everything: bool = False) -> None:
    """Require gradients of exactly the parameters that ``stage`` trains (the table at the top of this file).

    Args:
        denoiser: the module that holds the stage's networks.
        stage: its name.
        everything: in "distill", train the whole student.
    """
    controlnets = ("controlnet.", "controlnet_keypoints.")
    learning = {
        "base": ("unet.", "appearance_encoder.", *controlnets),
        "controlnet": controlnets,
        "stage1": ("appearance_encoder.", *controlnets),
        # Its temporal layers are added below, as their names are spread over the UNet.
        "stage2": (),
        "distill": ("appearance_encoder.", "discriminator."),
        "sharpen": ("vae.decoder.", "discriminator."),
    }[stage]
    if everything:
        learning += ("unet.", *controlnets)
    if stage in ("stage2", "distill"):
        learning += tuple(
            name for name, _ in denoiser.unet.named_parameters("unet") if TEMPORAL_LAYERS in name
        )
    for name, p in denoiser.named_parameters():
        p.requires_grad_(name.startswith(learning))


def _warped(photo: torch.Tensor, labels: torch.Tensor, poses: torch.Tensor) -> torch.Tensor:
    """A photo ``3 H W`` in [-1, 1] with its labels, moved into poses, ``F H W`` -> ``F 3 H W``."""
    pixels = ((photo + 1) * 127.5).round().byte().movedim(0, -1).numpy()
    warp = PhotoWarp(pixels, labels.byte().numpy())
    return to_images(np.stack([warp(pose).frame for pose in poses.byte().numpy()]))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(inner, device) for key, inner in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def softened(maps: torch.Tensor, rngs: list[np.random.Generator]) -> torch.Tensor:
    """Augment control images ``B F 3 H W`` in [0, 1]: a slight blur and colour shift, as in resized video.

    Each sample is blended with its blurred copy by a share of its own, and the colours of each frame are
    shifted.
    """
    share = torch.tensor([rng.random() for rng in rngs], dtype=maps.dtype)
    # Drawn on the CPU, so that every device gets the same.
    shift = np.stack([rng.normal(0, 0.01, (maps.shape[1], 3, 1, 1)) for rng in rngs])
    share, shift = share.to(maps.device), torch.from_numpy(shift).to(maps)
    flat = maps.flatten(0, 1)
    small = functional.interpolate(flat, scale_factor=0.75, mode="bilinear", antialias=True)
    blurred = functional.interpolate(small, size=flat.shape[-2:], mode="bilinear").view_as(maps)
    return (torch.lerp(maps, blurred, share.view(-1, 1, 1, 1, 1)) + shift).clamp(0, 1)
