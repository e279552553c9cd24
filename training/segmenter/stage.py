"""Stage "segmenter": the part of every pixel, on augmented pictures of rendered dancers.

Letters in shape comments: ``B`` pictures, ``C`` labels, ``H W`` pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from densepose_tools.segmenter import NUM_LABELS, PartSegmenter, part_logits
from magicanimate.palette import PALETTE
from training.config import StageConfig
from training.data import DancerData, step_generator, to_images
from training.metrics.parts import PartCounts
from training.pictures import save_grid
from training.segmenter.augment import augment
from training.segmenter.network import build_segmenter

DICE_WEIGHT = 0.5


class SegmenterStage:
    """Cross-entropy and Dice loss of the labels."""

    def __init__(self, config: StageConfig, preset: str, data: DancerData):
        self.config, self.data = config, data
        torch.manual_seed(config.seed)
        self.segmenter = build_segmenter(preset).to(memory_format=torch.channels_last)
        self.networks = {"segmenter": self.segmenter}

    def loss(self, step: int) -> torch.Tensor:
        images, labels = self._batch(step_generator(self.config.seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = part_logits(self.segmenter, images)
        return segmentation_loss(logits.float(), labels)

    def _batch(self, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        data = self.data
        rows = rng.choice(data.train, self.config.batch_size)
        columns = rng.integers(data.rgb.shape[1], size=self.config.batch_size)
        picked = list(zip(rows, columns, strict=True))
        rgb, parts = (np.stack([array[i, k] for i, k in picked]) for array in (data.rgb, data.parts))
        return augment(rgb, parts, rng)

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
    """Cross-entropy, and half a Dice loss: one minus the mean overlap over the labels that the batch holds.

    The second makes small parts count as much as large ones. The truth being one label a pixel, its overlap
    with the predicted shares is a sum of single entries, which spares a one-hot tensor of 25 channels.

    Args:
        logits: float32 ``B C H W``.
        labels: int64 ``B H W``.

    Source: Milletari et al., "V-Net" (3DV 2016), equation 2 without the squares.
    """
    log_shares = logits.log_softmax(1)
    shares, count = log_shares.exp(), logits.shape[1]
    right = shares.gather(1, labels[:, None]).flatten()
    overlap = right.new_zeros(count).index_add(0, labels.flatten(), right)
    sizes = torch.bincount(labels.flatten(), minlength=count)
    dice = 2 * overlap / (shares.sum(dim=(0, 2, 3)) + sizes)
    return functional.nll_loss(log_shares, labels) + DICE_WEIGHT * (1 - dice[sizes > 0].mean())
