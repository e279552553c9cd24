"""Stage "segmenter": the part of every pixel, on augmented pictures of rendered dancers; its network.

Letters in shape comments: ``B`` pictures, ``C`` labels, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn import functional

from densepose_tools.segmenter import NUM_LABELS, PATCH, PartSegmenter, part_logits
from magicanimate.palette import PALETTE, nearest_labels
from training.config import OptimizerConfig, StageConfig
from training.data.samples import DrawnSamples
from training.data.sources import VideoSet
from training.data.tensors import to_images
from training.metrics.parts import PartCounts
from training.pictures import save_grid
from training.segmenter.augment import augment

_SIZES = {"mini": (128, (48, 64, 80, 96)), "tiny": (32, (8, 8, 16, 16))}


def build_segmenter(preset: str) -> UNet2DModel:
    """A convolutional U-Net with random weights, on squares of 4x4 pixels.

    Convolutions learn this in minutes on a CPU; a SegFormer of a similar size, tried first, had half the mean
    IoU after 600 steps.

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
    """Settings of the run. The mini takes about an hour on one core."""
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


class SegmenterSamples(DrawnSamples):
    """Augmented frames of videos with DensePose maps: "image" and "labels" of `augment`."""

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
    """Cross-entropy and Dice loss of the labels.

    Args:
        segmenter: the network to train.
        samples: of the training data.
        held_out: videos to judge it on.
    """

    def __init__(self, segmenter: UNet2DModel, *, samples: SegmenterSamples, held_out: VideoSet):
        super().__init__()
        self.segmenter, self.samples, self.held_out = segmenter, samples, held_out

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of samples."""
        return segmentation_loss(part_logits(self.segmenter, batch["image"]).float(), batch["labels"])

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out people: picture, truth, result; mean IoU over the labels and share of right pixels."""
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
    """Cross-entropy, and half a Dice loss: one minus the mean overlap over the labels that a picture holds.

    The second makes small parts count as much as large ones. The truth being one label a pixel, its overlap
    with the predicted shares is a sum of single entries, which spares a one-hot tensor of 25 channels.

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
    present = sizes > 0
    dice = (dice * present).sum(1) / present.sum(1)
    cross_entropy = functional.nll_loss(log_shares, labels, reduction="none").mean(dim=(1, 2))
    return cross_entropy + DICE_WEIGHT * (1 - dice)
