"""Stage "sharpen": the autoencoder's decoder learns to sharpen what the finished pipeline samples.

A denoiser that is trained on squared errors and sampled in few steps gives latents near the mean of what is
possible, and a decoder that has only seen latents of real images makes a blur of them. Here the decoder sees
latents that the pipeline samples for the training data, in the pipeline's own number of steps, and learns
from the true images by three losses: L1 on the pixels, a perceptual loss on the part segmenter's features,
and a patch discriminator. The denoiser is frozen, so that any number of steps and the temporal layers work as
before; so is the encoder, so that latents keep their meaning. This is ours, not the paper's.

Letters in shape comments: ``B`` samples, ``F`` frames of a clip, ``N`` = B F images, ``C h w`` latents,
``H W`` pixels, ``P`` patches each way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import Dataset

from densepose_tools.segmenter import STRIDE, PartSegmenter, level_features
from magicanimate.errors import InputError
from magicanimate.models.autoencoder import decode_scaled, spatial_factor
from training.config import StageConfig
from training.data.computed import PhotoLabels
from training.data.draws import Stream, generator
from training.diffusion import sample_latents
from training.stages.denoiser import Denoiser, choose_trained, softened

MARGIN = 1
"""Width, in latents, of the border around a crop that is decoded but not part of the loss."""
STEADY_WEIGHT = 1.0
"""Weight of the L1 loss on the changes from frame to frame; without it, invented detail would flicker."""


class Repeated(Dataset):
    """Samples of which every batch of ``size`` is returned for ``times`` steps in a row."""

    def __init__(self, samples: Dataset, size: int, *, times: int):
        self.samples, self.size, self.times = samples, size, times

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.size)
        return self.samples[step // self.times * self.size + place]


class Sharpener(Denoiser):
    """Trains the decoder and its discriminator by one sum of losses, whose gradients are kept apart.

    Args:
        config: settings of the stage.
        networks: as in `Denoiser`, the UNet with temporal layers.
        sampling_steps: the pipeline's number of steps.
        photo_labels: segments the references, if the appearance encoder takes their part maps.
        others: the other arguments of `Denoiser`.

    Raises:
        InputError: the size of the crops does not suit the part segmenter.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Mapping[str, nn.Module],
        *,
        sampling_steps: int,
        photo_labels: PhotoLabels | None = None,
        **others: Any,
    ):
        super().__init__(config, networks, **others)
        judged = config.crop or config.size
        if config.feature_weight and judged % STRIDE:
            raise InputError(
                f"The part segmenter cannot judge {judged} pixels; choose --crop {STRIDE} or a multiple."
            )
        self.sampling_steps, self.photo_labels = sampling_steps, photo_labels
        # Sampling takes far longer than a step of the decoder, so its latents are used for several crops.
        self.samples = Repeated(self.samples, config.samples_a_step, times=config.reuse)
        self._sampled: tuple[list[tuple[int, int]], torch.Tensor] | None = None
        self.vae = self.latents.vae
        self.factor = spatial_factor(self.vae)
        self.discriminator = build_discriminator()
        self.feature_network = PartSegmenter.load().network
        choose_trained(self, "sharpen")

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of `training.data.samples` with their global ``index``."""
        control = self._control(batch)
        places = [self._place(index) for index in batch["index"].tolist()]
        # Compared by seeds, not by step, so that a resumed run samples again what it needs.
        if self._sampled is None or self._sampled[0] != places:
            self._sampled = places, self._sample_latents(batch, control, places)
        return self._decoder_losses(batch, self._sampled[1], control)

    def _decoder_losses(
        self, batch: Mapping[str, Any], latents: torch.Tensor, control: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Losses ``B`` of latents ``B C F h w``, computed on the images that the decoder makes of them."""
        made, truth, drawn = self._cropped(batch, latents, next(iter(control.values())))
        shape = made.shape[:2]
        changes = [pictures.diff(dim=1) for pictures in (made, truth)]
        made, truth, drawn = (pictures.flatten(0, 1) for pictures in (made, truth, drawn))
        losses = (made - truth).abs().mean((1, 2, 3)) + self._adversarial_losses(made, truth, drawn)
        if self.config.feature_weight:
            losses = losses + self.config.feature_weight * feature_losses(self.feature_network, made, truth)
        # From here on per sample: N -> B.
        losses = losses.unflatten(0, shape).mean(1)
        if shape[1] > 1:
            losses = losses + STEADY_WEIGHT * (changes[0] - changes[1]).abs().mean((1, 2, 3, 4))
        return losses

    def _place(self, index: int) -> tuple[int, int]:
        """The seed of a sample's noise: the first step in which it is used, and its place in the batch."""
        step, place = divmod(index, self.config.samples_a_step)
        return step - step % self.config.reuse, place

    def _latents_shape(self, batch: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """Shape ``C F h w`` of the targets' latents."""
        frames, (height, width) = batch["target"].shape[1], batch["target"].shape[-2:]
        return self.unet.config.in_channels, frames, height // self.factor, width // self.factor

    @torch.no_grad()
    def _sample_latents(
        self,
        batch: Mapping[str, Any],
        control: Mapping[str, torch.Tensor],
        places: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Sample latents ``B C F h w`` as the pipeline does, with one noise for all frames of a clip."""
        # Segmented here, not in every step, most of which use latents again.
        batch = self._labelled(batch)
        rngs = [generator(Stream.NOISE, self.config.seed, *place) for place in places]
        shape = self._latents_shape(batch)
        noise = self.first_latents(batch, rngs, shape, share=[True] * len(rngs))
        if self.config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        encoder_input = self._encoder_input(batch)
        return sample_latents(
            self.scheduler,
            noise,
            lambda noisy, t: self.predict(noisy, t, encoder_input, control),
            steps=self.sampling_steps,
        )

    def _cropped(
        self, batch: Mapping[str, Any], latents: torch.Tensor, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decoded, true and control images of a random crop of each sample, ``B F 3 H W`` each.

        A border more than the crop is decoded, since the decoder's convolutions pad at the edges.
        """
        # Crops begin at any pixel, not only where a latent does: through its strides the discriminator passes
        # gradients that differ from pixel to pixel, and always in the same places they teach a grid.
        tokens, factor = latents.shape[-1], self.factor
        side = min(self.config.crop, factor * tokens) or factor * tokens
        wide = min(-(-side // factor) + 1 + 2 * MARGIN, tokens)
        pieces, corners, inner = [], [], []
        for index, whole in zip(batch["index"].tolist(), latents, strict=True):
            step, place = divmod(index, self.config.samples_a_step)
            rng = generator(Stream.CROP, self.config.seed, step, place)
            # Another crop in every step, also of latents that are used again.
            corner = rng.integers(factor * tokens - side + 1, size=2)  # y, x
            first = (corner // factor - MARGIN).clip(0, tokens - wide)
            pieces.append(_window(whole, first, wide))
            corners.append(corner)
            inner.append(corner - factor * first)
        decoded = decode_scaled(self.vae, torch.stack(pieces).transpose(1, 2).flatten(0, 1))
        decoded = decoded.unflatten(0, (len(pieces), -1))
        sources = (decoded, inner), (batch["target"], corners), (drawn, corners)
        made, truth, drawn = (
            torch.stack([_window(p, c, side) for p, c in zip(pictures, firsts, strict=True)])
            for pictures, firsts in sources
        )
        return made, truth, drawn

    def _labelled(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.photo_labels is None:
            return batch
        return {**batch, "reference_photo_labels": self.photo_labels(batch["reference"])}

    def _adversarial_losses(
        self, made: torch.Tensor, truth: torch.Tensor, drawn: torch.Tensor
    ) -> torch.Tensor:
        """Hinge losses of discriminator and decoder, added up, ``N``.

        Source: Lim and Ye, "Geometric GAN" (2017), section 3; Isola et al., "Image-to-Image Translation with
        Conditional Adversarial Networks" (CVPR 2017), section 3.2: patches, and the drawing beside them.
        """
        real, fake = (torch.cat([pictures, drawn * 2 - 1], 1) for pictures in (truth, made))
        # Detached, so that the discriminator's loss does not reach the decoder ...
        on_real, on_fake = (self.discriminator(x.detach()).flatten(1) for x in (real, fake))
        discriminator = functional.relu(1 - on_real).mean(1) + functional.relu(1 + on_fake).mean(1)
        # ... and with its weights fixed, so that the decoder's loss does not reach the discriminator. One
        # backward pass serves both.
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        # The decoder is rewarded for patches that pass for real.
        decoder = -functional_call(self.discriminator, fixed, (fake,)).flatten(1).mean(1)
        return discriminator + self.config.adversarial_weight * decoder


def _window(pictures: torch.Tensor, corner: Sequence[int], side: int) -> torch.Tensor:
    """Cut a square with sides of ``side`` out of ``... H W``, from ``corner`` (y, x) on."""
    y, x = corner
    return pictures[..., y : y + side, x : x + side]


def build_discriminator(width: int = 32) -> nn.Sequential:
    """A patch discriminator: image and control image, ``N 6 H W`` -> one score per patch, ``N 1 P P``.

    The receptive field, and so a patch, is 30 pixels wide.
    """
    layers: list[nn.Module] = []
    channels = 6
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, width, 4, stride, padding=1), nn.LeakyReLU(0.2)]
        channels, width = width, 2 * width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))


def feature_losses(network: nn.Module, made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Perceptual loss, float32 ``N``: distance of a network's normalized features of images ``N 3 H W``.

    The same as `training.metrics.pixels.feature_distance`, but differentiable with respect to ``made``.
    """
    with torch.no_grad():
        wanted = level_features(network, truth)
    distances = []
    for a, b in zip(level_features(network, made), wanted, strict=True):
        apart = functional.normalize(a, dim=1) - functional.normalize(b, dim=1)
        distances.append(apart.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)
