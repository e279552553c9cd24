"""Stage "segmenter": the part segmenter, its training on augmented images of rendered dancers, and its loss.

The augmentation is strong enough to leave the renderer's look behind: the network has to segment photos.

Letters in shape comments: ``B`` images, ``C`` labels, ``H W`` pixels. Inside the augmentation, images are
float32 ``3 H W`` in [0, 1] and label maps int64 ``H W``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from PIL import Image
from torch import nn
from torch.nn import functional

from densepose_tools.segmenter import NUM_LABELS, PATCH, PartSegmenter, part_logits
from magicanimate.media.photo import load_photo
from magicanimate.palette import FLIP_PERMUTATION, PALETTE, nearest_labels
from training.config import OptimizerConfig, StageConfig
from training.data.samples import DrawnSamples
from training.data.sources import VideoSet
from training.data.tensors import to_images
from training.metrics.parts import PartCounts
from training.pictures import save_grid

_SIZES = {"mini": (128, (48, 64, 80, 96)), "tiny": (32, (8, 8, 16, 16))}


def build_segmenter(preset: str) -> UNet2DModel:
    """A convolutional U-Net with random weights, which takes squares of 4x4 pixels as channels.

    Convolutions learn this quickly on a CPU; a SegFormer of similar size, tried first, had half the mean IoU
    after 600 steps.

    Source: Ronneberger et al., "U-Net" (MICCAI 2015), in the form of diffusers' residual blocks.
    """
    size, channels = _SIZES[preset]
    return UNet2DModel(
        sample_size=size // PATCH,
        in_channels=3 * PATCH**2,
        out_channels=NUM_LABELS * PATCH**2,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * len(channels),
        up_block_types=("UpBlock2D",) * len(channels),
        layers_per_block=1,
        norm_num_groups=8,
        add_attention=False,
    )


def segmenter_config(preset: str) -> StageConfig:
    """Settings of the run. The preset "mini" takes about an hour on one core."""
    if preset == "tiny":
        return StageConfig(
            "segmenter",
            steps=4,
            batch_size=2,
            size=32,
            holdout=1,
            checkpoint_every=2,
            sample_every=4,
            log_every=1,
            optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=1, ema_decay=0.98),
        )
    optimizer = OptimizerConfig(
        learning_rate=1.5e-3, warmup_steps=100, decay_steps=2500, final_ratio=0.02, ema_decay=0.995
    )
    return StageConfig(
        "segmenter",
        steps=9000,
        batch_size=16,
        size=128,
        mixed_precision="bf16",
        channels_last=True,
        optimizer=optimizer,
    )


DICE_WEIGHT = 0.5
_BLUR_RADIUS = 4
_LEFT_CLEAN = 0.3


class SegmenterSamples(DrawnSamples):
    """Augmented frames of videos with DensePose maps: "image" and "labels" as `augment` returns them."""

    def __init__(self, videos: VideoSet, *, batch_size: int, steps: int, seed: int):
        super().__init__(batch_size=batch_size, steps=steps, seed=seed)
        self.videos = videos

    def draw(self, rng: np.random.Generator, step: int) -> dict[str, torch.Tensor]:
        video = int(rng.integers(len(self.videos)))
        frames = self.videos.read(video, [int(rng.integers(self.videos.num_frames(video)))])
        labels, _ = nearest_labels(frames.control["densepose"][0])
        image, labels = augment(frames.pixels[0], labels, rng)
        return {"image": image, "labels": labels}


class SegmenterStage(nn.Module):
    """Trains the segmenter with cross-entropy and Dice loss.

    Args:
        segmenter: the network to train.
        samples: training samples.
        held_out: validation videos.
    """

    def __init__(self, segmenter: UNet2DModel, *, samples: SegmenterSamples, held_out: VideoSet):
        super().__init__()
        self.segmenter, self.samples, self.held_out = segmenter, samples, held_out

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of `SegmenterSamples`."""
        return segmentation_loss(part_logits(self.segmenter, batch["image"]).float(), batch["labels"])

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Segment the validation videos: a sheet of image, truth and result; mean IoU and pixel accuracy."""
        judge, counts, shown = PartSegmenter(self.segmenter), PartCounts(NUM_LABELS), []
        for video in range(len(self.held_out)):
            frames = self.held_out.read(video, range(self.held_out.num_frames(video)))
            truth, _ = nearest_labels(frames.control["densepose"])
            found = judge.labels(frames.pixels)
            counts.add(truth, found)
            shown.append((frames.pixels[0], PALETTE[truth[0]], PALETTE[found[0]]))
        if shown:
            rows = [to_images(np.stack(pictures[:8])) for pictures in zip(*shown, strict=True)]
            save_grid(folder / f"{step:06d}.png", rows)
        return {"mean_iou": counts.mean_iou(), "accuracy": counts.accuracy()}


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus half a Dice loss, which is one minus the mean overlap over the labels in an image.

    The Dice loss makes small parts count as much as large ones. As the truth has a single label per pixel,
    its overlap with the predicted probabilities is a sum of single entries, without a one-hot tensor of 25
    channels.

    Args:
        logits: float32 ``B C H W``.
        labels: int64 ``B H W``.

    Returns:
        Loss of each picture, ``B``.

    Source: Milletari et al., "V-Net" (3DV 2016), equation 2 without the squares.
    """
    log_shares = logits.log_softmax(1)
    shares, flat = log_shares.exp(), labels.flatten(1)  # B (H W)
    right = shares.gather(1, labels[:, None]).flatten(1)
    empty = right.new_zeros(logits.shape[:2])
    overlap = empty.scatter_add(1, flat, right)
    sizes = empty.scatter_add(1, flat, torch.ones_like(right))
    dice = 2 * overlap / (shares.sum(dim=(2, 3)) + sizes)
    # Labels that an image does not have would count as perfectly missed.
    present = sizes > 0
    dice = (dice * present).sum(1) / present.sum(1)
    cross_entropy = functional.nll_loss(log_shares, labels, reduction="none").mean(dim=(1, 2))
    return cross_entropy + DICE_WEIGHT * (1 - dice)


def augment(
    rgb: np.ndarray, parts: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment an image with its labels: the geometry of both, and mostly the image's colours and sharpness.

    Args:
        rgb: the image, uint8 ``H W 3``.
        parts: part ids, uint8 ``H W``, 0..24.
        rng: source of all random numbers.

    Returns:
        The image, float32 ``3 H W`` in [-1, 1], and labels, int64 ``H W``.
    """
    if rng.random() < 0.5:
        # Left and right parts have different labels, so a mirrored map exchanges them.
        rgb, parts = rgb[:, ::-1], FLIP_PERMUTATION[parts[:, ::-1]]
    image = torch.from_numpy(np.array(rgb)).movedim(-1, 0).float() / 255
    labels = torch.from_numpy(np.array(parts)).long()
    image, labels = _transform(image, labels, rng)
    if rng.random() < 0.4:
        _hide(image, labels, rng)
    if rng.random() >= _LEFT_CLEAN:
        image = _compress(_soften(_recolour(image, rng), rng), rng)
    return image * 2 - 1, labels


def _colour(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.random((3, 1, 1), dtype=np.float32))


def _transform(
    image: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom, stretch, rotate and shift; what comes from outside the image gets a plain colour and label 0."""
    zoom, stretch = np.exp(rng.uniform(-0.3, 0.5)), np.exp(rng.uniform(-0.1, 0.1))
    angle, (x, y) = rng.uniform(-0.2, 0.2), rng.uniform(-0.25, 0.25, 2)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = torch.tensor([[[cos * stretch, -sin, x], [sin, cos / stretch, y]]], dtype=torch.float32)
    grid = functional.affine_grid(rows, [1, *image.shape], align_corners=False)
    inside = (grid[0].abs() <= 1).all(-1)
    moved = functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    ids = functional.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return torch.where(inside, moved, _colour(rng)), torch.where(inside, ids.long(), 0)


def _hide(image: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> None:
    """Cover a box, in place: by a colour with label 0, or by another part of the image with its labels."""
    size = len(labels)
    height, width = rng.integers(size // 12, size // 3, 2)
    y, there_y = rng.integers(0, size - height, 2)
    x, there_x = rng.integers(0, size - width, 2)
    box = (slice(y, y + height), slice(x, x + width))
    if rng.random() < 0.5:
        image[:, box[0], box[1]], labels[box] = _colour(rng), 0
    else:
        there = (slice(there_y, there_y + height), slice(there_x, there_x + width))
        image[:, box[0], box[1]] = image[:, there[0], there[1]].clone()
        labels[box] = labels[there].clone()


def _recolour(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change gain, offset, gamma and saturation; sometimes also permute the channels."""
    if rng.random() < 0.1:
        image = image[rng.permutation(3)]
    gain = torch.from_numpy(rng.uniform(0.65, 1.35) * rng.uniform(0.85, 1.15, (3, 1, 1))).float()
    gamma, offset = np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(-0.1, 0.1)
    image = (image * gain + offset).clamp(1e-3, 1) ** gamma
    grey = image.mean(0, keepdim=True)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.4, 1.3)
    return (grey + (image - grey) * saturation).clamp(0, 1)


def _soften(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, reduce the resolution, add noise: each of them sometimes."""
    if rng.random() < 0.5:
        offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1.0)
        kernel = torch.exp(-0.5 * (offsets / rng.uniform(0.4, 1.8)) ** 2)
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        planes = functional.pad(image[:, None], (_BLUR_RADIUS,) * 4, mode="replicate")
        image = functional.conv2d(functional.conv2d(planes, kernel), kernel.transpose(2, 3))[:, 0]
    if rng.random() < 0.25:
        size = image.shape[-1]
        coarse = functional.interpolate(image[None], size=int(size * rng.uniform(0.35, 0.8)), mode="area")
        image = functional.interpolate(coarse, size=size, mode="bilinear")[0]
    if rng.random() < 0.5:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        image = image + rng.uniform(0, 0.05) * noise
    return image.clamp(0, 1)


def _compress(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Compress the image as JPEG, sometimes."""
    if rng.random() >= 0.3:
        return image
    file = io.BytesIO()
    pixels = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(25, 90)))
    return torch.from_numpy(load_photo(file.getvalue())).movedim(-1, 0).float() / 255
