"""Stage "segmenter": the part of every pixel, on augmented pictures of rendered dancers.

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

from densepose_tools.segmenter import NUM_LABELS, PartSegmenter, part_logits
from magicanimate.palette import PALETTE, nearest_labels
from training.data.samples import DrawnSamples
from training.data.sources import VideoSet
from training.data.tensors import to_images
from training.metrics.parts import PartCounts
from training.pictures import save_grid
from training.segmenter.augment import augment

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
