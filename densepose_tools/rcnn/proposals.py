"""The region proposal network: boxes that may contain an object.

Source: Ren et al., "Faster R-CNN" (NeurIPS 2015), on the levels of a feature pyramid.

Letters in shape comments: ``N`` images, ``A`` anchors a pixel, ``h w`` pixels of a level, ``K`` boxes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms

from densepose_tools.rcnn.backbone import LEVELS
from densepose_tools.rcnn.boxes import clipped, moved

_SIDES = {"p2": 32, "p3": 64, "p4": 128, "p5": 256, "p6": 512}
_RATIOS = (0.5, 1.0, 2.0)  # height to width
_STRIDES = {level: 4 << number for number, level in enumerate(LEVELS)}

_PER_LEVEL = 1000
_KEPT = 1000
_OVERLAP = 0.7
"""Proposals per level before non-maximum suppression, proposals kept after it, and its overlap (IoU)."""


def anchors(level: str, height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """The anchor boxes of a level, (h * w * A, 4), row by row, centred on its grid points."""
    area = _SIDES[level] ** 2
    shapes = torch.tensor([((area / ratio) ** 0.5, ratio * (area / ratio) ** 0.5) for ratio in _RATIOS])
    cell = torch.cat([-shapes, shapes], dim=1).to(device) / 2
    x = torch.arange(width, dtype=torch.float32, device=device) * _STRIDES[level]
    y = torch.arange(height, dtype=torch.float32, device=device) * _STRIDES[level]
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    corner = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
    return (corner + cell).reshape(-1, 4)


class ProposalHead(nn.Module):
    """For every anchor of every pixel: whether an object is there, and how its box differs."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(channels, len(_RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * len(_RATIOS), 1)

    def forward(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``N C h w`` -> logits ``N A h w`` and deltas ``N 4A h w``."""
        hidden = functional.relu_(self.conv(level))
        return self.objectness_logits(hidden), self.anchor_deltas(hidden)


class ProposalGenerator(nn.Module):
    """Applies the head to every level, and chooses among the boxes."""

    def __init__(self, channels: int):
        super().__init__()
        self.rpn_head = ProposalHead(channels)

    def forward(
        self, levels: dict[str, torch.Tensor], size: tuple[int, int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """The proposals of each image, by falling score.

        Args:
            levels: p2 to p6.
            size: (h, w) of the images without padding.

        Returns:
            For each image boxes (K, 4) and logits (K,), at most 1000.
        """
        heads = {name: self.rpn_head(level) for name, level in levels.items()}
        count = next(iter(levels.values())).shape[0]
        return [
            choose_proposals({name: (logits[n], deltas[n]) for name, (logits, deltas) in heads.items()}, size)
            for n in range(count)
        ]


def choose_proposals(
    heads: dict[str, tuple[torch.Tensor, torch.Tensor]], size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose among the boxes of one image; only boxes of the same level suppress each other.

    Args:
        heads: by level, logits (A, h, w) and deltas (4A, h, w).
        size: see ``ProposalGenerator``.

    Returns:
        Boxes (K, 4) and logits (K,), by falling logit.
    """
    boxes, scores, level_of = [], [], []
    for number, (name, (logits, deltas)) in enumerate(heads.items()):
        height, width = logits.shape[1:]
        flat = logits.permute(1, 2, 0).flatten()
        best, which = flat.topk(min(_PER_LEVEL, len(flat)))
        # Channels are ordered by anchor and then by coordinate; rows of boxes by pixel and then by anchor.
        steps = deltas.view(-1, 4, height, width).permute(2, 3, 0, 1).reshape(-1, 4)
        boxes.append(moved(anchors(name, height, width, logits.device)[which], steps[which], (1, 1, 1, 1)))
        scores.append(best)
        level_of.append(torch.full_like(which, number))
    inside, has_area = clipped(torch.cat(boxes), size)
    found, score, level = inside[has_area], torch.cat(scores)[has_area], torch.cat(level_of)[has_area]
    # batched_nms takes the level for a class, and returns indices by falling score.
    keep = batched_nms(found, score, level, _OVERLAP)[:_KEPT]
    return found[keep], score[keep]
