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
        logits = logits.float()
        return functional.cross_entropy(logits, labels) + 0.5 * dice_loss(logits, labels)

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


def dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One minus the mean overlap over the labels that the batch holds, so that small parts count.

    Args:
        logits: ``B C H W``.
        labels: int64 ``B H W``.

    Source: Milletari et al., "V-Net" (3DV 2016), equation 2 without the squares.
    """
    shares = logits.softmax(1).transpose(0, 1).flatten(1)  # C (B H W)
    truth = functional.one_hot(labels.flatten(), logits.shape[1]).T.to(shares.dtype)
    present = truth.sum(1) > 0
    overlap = 2 * (shares * truth).sum(1) / (shares.sum(1) + truth.sum(1))
    return 1 - overlap[present].mean()
