"""Region heads: person or not, the box, and each pixel's part and coordinates.

Boxes as in Fast R-CNN (Girshick, ICCV 2015); parts as in DensePose (Guler et al., CVPR 2018) with the
decoder of Panoptic FPN (Kirillov et al., CVPR 2019).

Letters in shape comments: ``N`` pictures, ``C`` channels, ``h w`` pixels, ``K`` boxes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms, roi_align

from densepose_tools.rcnn.boxes import clipped, moved
from densepose_tools.rcnn.widths import Widths

LEVELS = ("p2", "p3", "p4", "p5")
MIN_SCORE = 0.05
"""Published score below which nothing counts as a person."""

MAX_PEOPLE = 100

_OVERLAP = 0.5
_DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_BOX_PIXELS, _PART_PIXELS, _SAMPLES = 7, 28, 2
_NOMINAL_SIDE, _NOMINAL_LEVEL = 224, 4
"""A region of that side is read from p4 (feature pyramid paper, equation 1)."""

NUM_PARTS = 25
"""Background and 24 parts."""


class BoxHead(nn.Module):
    """Two fully connected layers over the pixels of a region."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.fc1 = nn.Linear(widths.pyramid * _BOX_PIXELS**2, widths.boxes)
        self.fc2 = nn.Linear(widths.boxes, widths.boxes)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return functional.relu_(self.fc2(functional.relu_(self.fc1(pooled.flatten(1)))))


class BoxPredictor(nn.Module):
    """Logits of person and nothing, and deltas of the box."""

    def __init__(self, features: int):
        super().__init__()
        self.cls_score = nn.Linear(features, 2)
        self.bbox_pred = nn.Linear(features, 4)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


class Decoder(nn.Module):
    """Merges the levels at the resolution of p2: convolve, double the size until it fits, and add up."""

    def __init__(self, channels: int):
        super().__init__()
        for doublings, name in enumerate(LEVELS):
            steps: list[nn.Module] = []
            for _ in range(max(1, doublings)):
                steps += [
                    nn.Conv2d(channels, channels, 3, padding=1),
                    nn.ReLU() if not doublings else _ReluDoubled(),
                ]
            self.add_module(name, nn.Sequential(*steps))
        self.predictor = nn.Conv2d(channels, channels, 1)

    def forward(self, levels: dict[str, torch.Tensor]) -> torch.Tensor:
        """p2 to p5 -> ``N C h w`` at a quarter of the picture's pixels a side."""
        merged = sum(self.get_submodule(name)(levels[name]) for name in LEVELS)
        return self.predictor(merged)


class _ReluDoubled(nn.Module):
    """Rectify, then twice the pixels a side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(
            functional.relu_(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )


class PartHead(nn.Module):
    """A row of 3x3 convolutions over the pixels of a region."""

    def __init__(self, widths: Widths):
        super().__init__()
        for number in range(widths.part_convs):
            inputs = widths.parts if number else widths.pyramid
            self.add_module(f"body_conv_fcn{number + 1}", nn.Conv2d(inputs, widths.parts, 3, padding=1))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        for conv in self.children():
            pooled = functional.relu_(conv(pooled))
        return pooled


class PartPredictor(nn.Module):
    """Logits of body and nothing, logits of the parts, and the two coordinates on each part."""

    def __init__(self, channels: int):
        super().__init__()
        self.ann_index_lowres = nn.ConvTranspose2d(channels, 2, 4, stride=2, padding=1)
        self.index_uv_lowres = nn.ConvTranspose2d(channels, NUM_PARTS, 4, stride=2, padding=1)
        self.u_lowres = nn.ConvTranspose2d(channels, NUM_PARTS, 4, stride=2, padding=1)
        self.v_lowres = nn.ConvTranspose2d(channels, NUM_PARTS, 4, stride=2, padding=1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``K C 28 28`` -> coarse ``K 2 112 112``, fine, u and v ``K 25 112 112``."""
        heads = (self.ann_index_lowres, self.index_uv_lowres, self.u_lowres, self.v_lowres)
        return tuple(
            functional.interpolate(head(features), scale_factor=2.0, mode="bilinear", align_corners=False)
            for head in heads
        )


class RegionHeads(nn.Module):
    """Everything that looks at regions, by the names of the released weights."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.box_head = BoxHead(widths)
        self.box_predictor = BoxPredictor(widths.boxes)
        self.decoder = Decoder(widths.pyramid)
        self.densepose_head = PartHead(widths)
        self.densepose_predictor = PartPredictor(widths.parts)

    def pool_boxes(self, levels: dict[str, torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """Features of regions, each from the level that fits its size: ``K C 7 7``, picture by picture."""
        every = torch.cat(boxes)
        side = ((every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1])).sqrt()
        level_of = torch.floor(_NOMINAL_LEVEL + torch.log2(side / _NOMINAL_SIDE + 1e-8)).clamp(2, 5)
        first = levels[LEVELS[0]]
        pooled = first.new_zeros(len(every), first.shape[1], _BOX_PIXELS, _BOX_PIXELS)
        rows = torch.cat([_with_index(box, n) for n, box in enumerate(boxes)])
        for number, name in enumerate(LEVELS, start=2):
            here = torch.nonzero(level_of == number).flatten()
            if len(here):
                pooled[here] = roi_align(levels[name], rows[here], _BOX_PIXELS, 1 / (1 << number), _SAMPLES)
        return pooled

    def score_boxes(
        self, levels: dict[str, torch.Tensor], proposals: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (K, 2), person first, and deltas (K, 4) of the proposals of all pictures."""
        return self.box_predictor(self.box_head(self.pool_boxes(levels, proposals)))

    def decode(self, levels: dict[str, torch.Tensor]) -> torch.Tensor:
        """The one level from which parts are read."""
        return self.decoder(levels)

    def pool_parts(self, decoded: torch.Tensor, boxes: list[torch.Tensor]) -> torch.Tensor:
        """Features of regions from the decoded level: ``K C 28 28``, picture by picture."""
        rows = torch.cat([_with_index(box, n) for n, box in enumerate(boxes)])
        return roi_align(decoded, rows, _PART_PIXELS, 1 / 4, _SAMPLES)

    def charts(self, decoded: torch.Tensor, boxes: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Coarse and fine logits, u and v of regions; see ``PartPredictor``."""
        return self.densepose_predictor(self.densepose_head(self.pool_parts(decoded, boxes)))


def choose_people(
    proposals: torch.Tensor,
    logits: torch.Tensor,
    deltas: torch.Tensor,
    size: tuple[int, int],
    *,
    min_score: float = MIN_SCORE,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """People of one picture: boxes (P, 4), scores (P,) and from which proposals, (P,), best first.

    Overlapping boxes give way to better ones, so a higher ``min_score`` only cuts the list short.
    """
    scores = logits.softmax(dim=1)[:, 0]
    boxes, _ = clipped(moved(proposals, deltas, _DELTA_WEIGHTS), size)
    likely = torch.nonzero(scores > min_score).flatten()
    same_kind = torch.zeros_like(likely)
    keep = likely[batched_nms(boxes[likely], scores[likely], same_kind, _OVERLAP)][:MAX_PEOPLE]
    return boxes[keep], scores[keep], keep


def _with_index(boxes: torch.Tensor, picture: int) -> torch.Tensor:
    """(K, 4) -> (K, 5) with the number of the picture in front, as ``roi_align`` wants it."""
    return torch.cat([boxes.new_full((len(boxes), 1), picture), boxes], dim=1)
