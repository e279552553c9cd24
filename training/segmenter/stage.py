"""Stage "segmenter": the part of every pixel, on augmented pictures of rendered dancers.

Letters in shape comments: ``B`` pictures, ``C`` labels, ``H W`` pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import Dataset, default_collate

from densepose_tools.segmenter import NUM_LABELS, PartSegmenter, part_logits
from magicanimate.palette import PALETTE
from training.config import StageConfig
from training.data import DancerData, to_images
from training.metrics.parts import PartCounts
from training.pictures import save_grid
from training.segmenter.augment import augment
from training.segmenter.network import build_segmenter

DICE_WEIGHT = 0.5


class SegmenterSamples(Dataset):
    """Augmented pictures by global index: what number ``k`` of step ``s`` is depends on (seed, s, k) only."""

    def __init__(self, data: DancerData, config: StageConfig):
        self.data, self.config = data, config

    def __len__(self) -> int:
        return self.config.steps * self.config.batch_size

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.config.seed, *divmod(index, self.config.batch_size)])
        i, k = rng.choice(self.data.train), rng.integers(self.data.rgb.shape[1])
        image, labels = augment(self.data.rgb[i, k], self.data.parts[i, k], rng)
        return {"image": image, "labels": labels}


class SegmenterStage:
    """Cross-entropy and Dice loss of the labels."""

    def __init__(self, config: StageConfig, preset: str, data: DancerData):
        self.config, self.data, self.samples = config, data, SegmenterSamples(data, config)
        torch.manual_seed(config.seed)
        self.segmenter = build_segmenter(preset).to(memory_format=torch.channels_last)
        self.networks = {"segmenter": self.segmenter}

    def loss(self, step: int) -> torch.Tensor:
        first = step * self.config.batch_size
        batch = default_collate([self.samples[first + k] for k in range(self.config.batch_size)])
        with torch.autocast("cpu", torch.bfloat16):
            logits = part_logits(self.segmenter, batch["image"])
        return segmentation_loss(logits.float(), batch["labels"]).mean()

    def sample(self, step: int, folder: Path) -> dict[str, float]:
        """Held-out people: picture, truth, result; mean IoU over the labels and share of right pixels."""
        data, judge = self.data, PartSegmenter(self.segmenter)
        counts, shown = PartCounts(NUM_LABELS), []
        for i in data.held_out:
            truth, found = np.array(data.parts[i]), judge.labels(np.array(data.rgb[i]))
            counts.add(truth, found)
            shown.append((data.rgb[i, 0], PALETTE[truth[0]], PALETTE[found[0]]))
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
