"""Stage "sharpen": the autoencoder's decoder learns to draw sharply what the finished pipeline samples.

A denoiser that is trained on squared errors and sampled in a few steps gives latents near the mean of what is
possible, and a decoder that has only seen latents of real pictures makes a blur of them. Here it sees the
latents that the pipeline samples for people of the training data, in the pipeline's own number of steps, and
learns from the true pictures by three measures: the pixels, the features of the part segmenter, and a
discriminator that looks at patches. The denoiser stays as it is, so that any number of steps and the temporal
layers work as before; the encoder too, so that latents keep their meaning. This is ours, not the paper's.

Letters in shape comments: ``B`` samples, ``F`` frames of a clip, ``N`` = B F pictures, ``C h w`` latents,
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
from training.diffusion import draw_noise, sample_latents
from training.stages.denoiser import Denoiser, choose_trained, softened

MARGIN = 1  # tokens around a crop that are decoded and not judged
STEADY_WEIGHT = 1.0
"""Of the error of the changes from frame to frame. Invented detail would flicker without it."""


class Repeated(Dataset):
    """Samples whose batches of ``size`` each serve ``times`` steps in a row."""

    def __init__(self, samples: Dataset, size: int, *, times: int):
        self.samples, self.size, self.times = samples, size, times

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        step, place = divmod(index, self.size)
        return self.samples[step // self.times * self.size + place]


class Sharpener(Denoiser):
    """Losses of the decoder and of the discriminator, whose gradients do not meet.

    Args:
        config: of the stage.
        networks: as `Denoiser` takes them, the UNet with temporal layers.
        sampling_steps: of the pipeline.
        photo_labels: finds the parts in the references, if the appearance encoder takes their part map.
        others: the other arguments of `Denoiser`.

    Raises:
        InputError: what the loss looks at is of a size that the part segmenter does not take.
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
        self.samples = Repeated(self.samples, config.samples_a_step, times=config.reuse)
        self._sampled: tuple[list[tuple[int, int]], torch.Tensor] | None = None
        self.vae = self.latents.vae
        self.factor = spatial_factor(self.vae)
        self.discriminator = build_discriminator()
        self.judge = PartSegmenter.load().network
        choose_trained(self, "sharpen")

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples, see `training.data.samples`, that know their ``index``."""
        control = self._control(batch)
        places = [self._place(index) for index in batch["index"].tolist()]
        if self._sampled is None or self._sampled[0] != places:
            self._sampled = places, self._sample_latents(batch, control, places)
        return self._judged(batch, self._sampled[1], control)

    def _judged(
        self, batch: Mapping[str, Any], latents: torch.Tensor, control: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Losses ``B`` of latents ``B C F h w`` by the pictures that the decoder makes of them."""
        made, truth, drawn = self._cropped(batch, latents, next(iter(control.values())))
        shape = made.shape[:2]
        changes = [pictures.diff(dim=1) for pictures in (made, truth)]
        made, truth, drawn = (pictures.flatten(0, 1) for pictures in (made, truth, drawn))
        losses = (made - truth).abs().mean((1, 2, 3)) + self._adversarial(made, truth, drawn)
        if self.config.feature_weight:
            losses = losses + self.config.feature_weight * feature_losses(self.judge, made, truth)
        losses = losses.unflatten(0, shape).mean(1)
        if shape[1] > 1:
            losses = losses + STEADY_WEIGHT * (changes[0] - changes[1]).abs().mean((1, 2, 3, 4))
        return losses

    def _place(self, index: int) -> tuple[int, int]:
        """Of a sample: the first step that it serves, and its place in the batch."""
        step, place = divmod(index, self.config.samples_a_step)
        return step - step % self.config.reuse, place

    def _latents_shape(self, batch: Mapping[str, Any]) -> tuple[int, int, int, int]:
        """``C F h w`` of the targets' latents."""
        frames, (height, width) = batch["target"].shape[1], batch["target"].shape[-2:]
        return self.unet.config.in_channels, frames, height // self.factor, width // self.factor

    @torch.no_grad()
    def _sample_latents(
        self,
        batch: Mapping[str, Any],
        control: Mapping[str, torch.Tensor],
        places: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """Latents ``B C F h w`` as the pipeline samples them; the frames of a clip share their noise, as the
        mini is used.
        """
        rngs = [generator(Stream.NOISE, self.config.seed, *place) for place in places]
        shape = self._latents_shape(batch)
        noise = torch.stack([draw_noise(rng, shape, share=True) for rng in rngs]).to(self.text.device)
        if self.config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        shown = self._shown(batch)
        return sample_latents(
            self.scheduler,
            noise,
            lambda noisy, t: self.predict(noisy, t, shown, control),
            steps=self.sampling_steps,
        )

    def _cropped(
        self, batch: Mapping[str, Any], latents: torch.Tensor, drawn: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Decoded, true and drawn pictures, each ``B F 3 H W``, of a window of each sample.

        More is decoded than is judged, since at its edges the decoder does not see what is beside them.
        """
        tokens, factor = latents.shape[-1], self.factor
        judged = min(self.config.crop // factor, tokens) or tokens
        wide = min(judged + 2 * MARGIN, tokens)
        pieces, corners, inner = [], [], []
        for index, whole in zip(batch["index"].tolist(), latents, strict=True):
            step, place = divmod(index, self.config.samples_a_step)
            rng = generator(Stream.CROP, self.config.seed, step, place)
            corner = rng.integers(tokens - judged + 1, size=2)  # y, x
            first = (corner - MARGIN).clip(0, tokens - wide)
            pieces.append(_window(whole, first, wide))
            corners.append(factor * corner)
            inner.append(factor * (corner - first))
        decoded = decode_scaled(self.vae, torch.stack(pieces).transpose(1, 2).flatten(0, 1))
        decoded = decoded.unflatten(0, (len(pieces), -1))
        sources = (decoded, inner), (batch["target"], corners), (drawn, corners)
        made, truth, drawn = (
            torch.stack([_window(p, c, factor * judged) for p, c in zip(pictures, firsts, strict=True)])
            for pictures, firsts in sources
        )
        return made, truth, drawn

    def _shown(self, batch: Mapping[str, Any]) -> torch.Tensor:
        if self.photo_labels is not None:
            batch = {**batch, "reference_photo_labels": self.photo_labels(batch["reference"])}
        return super()._shown(batch)

    def _adversarial(self, made: torch.Tensor, truth: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Hinge losses of both sides, ``N``.

        Source: Lim and Ye, "Geometric GAN" (2017), section 3; Isola et al., "Image-to-Image Translation with
        Conditional Adversarial Networks" (CVPR 2017), section 3.2: patches, and the drawing beside them.
        """
        real, fake = (torch.cat([pictures, drawn * 2 - 1], 1) for pictures in (truth, made))
        on_real, on_fake = (self.discriminator(x.detach()).flatten(1) for x in (real, fake))
        discriminator = functional.relu(1 - on_real).mean(1) + functional.relu(1 + on_fake).mean(1)
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        decoder = -functional_call(self.discriminator, fixed, (fake,)).flatten(1).mean(1)
        return discriminator + self.config.adversarial_weight * decoder


def _window(pictures: torch.Tensor, corner: Sequence[int], side: int) -> torch.Tensor:
    """A square of ``... H W``, of so many rows and columns from ``corner`` (y, x) on."""
    y, x = corner
    return pictures[..., y : y + side, x : x + side]


def build_discriminator(width: int = 32) -> nn.Sequential:
    """Tells real pictures from made ones, patch by patch: ``N 6 H W`` (picture, drawn motion) -> ``N 1 P P``.

    A patch is 30 pixels wide.
    """
    layers: list[nn.Module] = []
    channels = 6
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(channels, width, 4, stride, padding=1), nn.LeakyReLU(0.2)]
        channels, width = width, 2 * width
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))


def feature_losses(network: nn.Module, made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Distance of what a network sees in pictures ``N 3 H W``, float32 ``N``.

    As `training.metrics.pixels.feature_distance` measures it; with gradients of ``made``.
    """
    with torch.no_grad():
        wanted = level_features(network, truth)
    distances = []
    for a, b in zip(level_features(network, made), wanted, strict=True):
        apart = functional.normalize(a, dim=1) - functional.normalize(b, dim=1)
        distances.append(apart.square().sum(1).mean((1, 2)))
    return torch.stack(distances).mean(0)
