"""The region heads: person or background, the final box, and each pixel's part and coordinates.

Source: for boxes Fast R-CNN (Girshick, ICCV 2015); for parts DensePose (Güler et al., CVPR 2018) with the
decoder of Panoptic FPN (Kirillov et al., CVPR 2019).

Letters in shape comments: ``N`` images, ``C`` channels, ``h w`` pixels, ``K`` boxes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import batched_nms, roi_align

from densepose_tools.rcnn import Widths
from densepose_tools.rcnn.boxes import clipped, moved

LEVELS = ("p2", "p3", "p4", "p5")
MIN_SCORE = 0.05
"""The published score threshold for people."""

MAX_PEOPLE = 100

_OVERLAP = 0.5
_DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_BOX_PIXELS, _PART_PIXELS, _SAMPLES = 7, 28, 2
_NOMINAL_SIDE, _NOMINAL_LEVEL = 224, 4
"""A region with this side is pooled from this level (feature pyramid paper, equation 1)."""

NUM_PARTS = 25
"""Background and 24 parts."""


class BoxHead(nn.Module):
    """Two fully connected layers on a region's pooled features."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.fc1 = nn.Linear(widths.pyramid * _BOX_PIXELS**2, widths.boxes)
        self.fc2 = nn.Linear(widths.boxes, widths.boxes)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return functional.relu_(self.fc2(functional.relu_(self.fc1(pooled.flatten(1)))))


class BoxPredictor(nn.Module):
    """Logits of person and background, and deltas of the box."""

    def __init__(self, features: int):
        super().__init__()
        self.cls_score = nn.Linear(features, 2)
        self.bbox_pred = nn.Linear(features, 4)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cls_score(features), self.bbox_pred(features)


class Decoder(nn.Module):
    """Merges the levels at p2's resolution: each is convolved and upsampled until it fits, and added."""

    def __init__(self, channels: int):
        super().__init__()
        # p2 needs one convolution and no upsampling, p5 three of each.
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
        """p2 to p5 -> ``N C h w``, with sides of a quarter of the image's."""
        merged = sum(self.get_submodule(name)(levels[name]) for name in LEVELS)
        return self.predictor(merged)


class _ReluDoubled(nn.Module):
    """ReLU, then bilinear upsampling by 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(
            functional.relu_(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )


class PartHead(nn.Module):
    """A stack of 3x3 convolutions on a region's pooled features."""

    def __init__(self, widths: Widths):
        super().__init__()
        # Named body_conv_fcn1 to 8, as in the released weights.
        for number in range(widths.part_convs):
            inputs = widths.parts if number else widths.pyramid
            self.add_module(f"body_conv_fcn{number + 1}", nn.Conv2d(inputs, widths.parts, 3, padding=1))

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        for conv in self.children():
            pooled = functional.relu_(conv(pooled))
        return pooled


class PartPredictor(nn.Module):
    """Logits of body and background, logits of the parts, and the coordinates u and v on each part."""

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
    """All heads that work on regions, with the names of the released weights."""

    def __init__(self, widths: Widths):
        super().__init__()
        self.box_head = BoxHead(widths)
        self.box_predictor = BoxPredictor(widths.boxes)
        self.decoder = Decoder(widths.pyramid)
        self.densepose_head = PartHead(widths)
        self.densepose_predictor = PartPredictor(widths.parts)

    def pool_boxes(self, levels: dict[str, torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """Pool features of regions, each from the level that fits its size: ``K C 7 7``, image by image."""
        every = torch.cat(boxes)
        side = ((every[:, 2] - every[:, 0]) * (every[:, 3] - every[:, 1])).sqrt()
        # 1e-8: the logarithm of an empty region's side.
        level_of = torch.floor(_NOMINAL_LEVEL + torch.log2(side / _NOMINAL_SIDE + 1e-8)).clamp(2, 5)
        first = levels[LEVELS[0]]
        pooled = first.new_zeros(len(every), first.shape[1], _BOX_PIXELS, _BOX_PIXELS)
        rows = torch.cat([_with_index(box, n) for n, box in enumerate(boxes)])
        # Level by level, and put back in the order of the regions.
        for number, name in enumerate(LEVELS, start=2):
            here = torch.nonzero(level_of == number).flatten()
            if len(here):
                pooled[here] = roi_align(levels[name], rows[here], _BOX_PIXELS, 1 / (1 << number), _SAMPLES)
        return pooled

    def score_boxes(
        self, levels: dict[str, torch.Tensor], proposals: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (K, 2), person first, and deltas (K, 4) of the proposals of all images."""
        # Of all images together, which is faster than one by one.
        return self.box_predictor(self.box_head(self.pool_boxes(levels, proposals)))

    def decode(self, levels: dict[str, torch.Tensor]) -> torch.Tensor:
        """The level from which parts are pooled, for all regions of the images."""
        return self.decoder(levels)

    def pool_parts(self, decoded: torch.Tensor, boxes: list[torch.Tensor]) -> torch.Tensor:
        """Pool features of regions from the decoded level: ``K C 28 28``, image by image."""
        rows = torch.cat([_with_index(box, n) for n, box in enumerate(boxes)])
        return roi_align(decoded, rows, _PART_PIXELS, 1 / 4, _SAMPLES)

    def charts(self, decoded: torch.Tensor, boxes: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Coarse and fine logits, u and v of regions, see `PartPredictor`."""
        return self.densepose_predictor(self.densepose_head(self.pool_parts(decoded, boxes)))


def choose_people(
    proposals: torch.Tensor,
    logits: torch.Tensor,
    deltas: torch.Tensor,
    size: tuple[int, int],
    *,
    min_score: float = MIN_SCORE,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The people among an image's proposals: boxes (P, 4), scores and proposal numbers (P,), sorted.

    Boxes are only suppressed by better ones, so a higher ``min_score`` merely shortens the list.
    """
    scores = logits.softmax(dim=1)[:, 0]
    # One class only, so every proposal has one box.
    boxes, _ = clipped(moved(proposals, deltas, _DELTA_WEIGHTS), size)
    likely = torch.nonzero(scores > min_score).flatten()
    # batched_nms with a single class, as people suppress each other only.
    same_kind = torch.zeros_like(likely)
    keep = likely[batched_nms(boxes[likely], scores[likely], same_kind, _OVERLAP)][:MAX_PEOPLE]
    return boxes[keep], scores[keep], keep


def _with_index(boxes: torch.Tensor, picture: int) -> torch.Tensor:
    """Put the number of the image in front of boxes, (K, 4) -> (K, 5), as ``roi_align`` expects it."""
    return torch.cat([boxes.new_full((len(boxes), 1), picture), boxes], dim=1)
