"""DensePose R-CNN: finds the people in an image, and the body part at each of their pixels.

It consists of a feature pyramid, a proposal network, box heads, and DensePose's charts within the boxes. All
weights have the names of the released R_50_FPN_s1x (detectron2, projects/DensePose).

Letters in shape comments: ``N`` images, ``H W`` pixels of an image or of a person's box in it, ``P`` people,
``h w`` pixels of the network's input, ``h+ w+`` the same padded to multiples of 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from densepose_tools.people import Person
from densepose_tools.rcnn import Widths
from densepose_tools.rcnn.backbone import Backbone
from densepose_tools.rcnn.boxes import clipped, cut_sides, rescaled, widened
from densepose_tools.rcnn.proposals import ProposalGenerator
from densepose_tools.rcnn.regions import MAX_PEOPLE, MIN_SCORE, RegionHeads, choose_people

SHORT_SIDE, LONG_SIDE = 800, 1333
"""Images are scaled to this shorter side, but at most to this longer one (configuration of R_50_FPN_s1x)."""
_STRIDE = 32
_MEAN_BGR = (103.53, 116.28, 123.675)


@dataclass(frozen=True)
class Found:
    """The people in one image by falling score, on the network's device.

    Attributes:
        boxes: (P, 4): x0, y0, x1, y1 in pixels of the network's input.
        scores: (P,), 0..1.
    """

    boxes: torch.Tensor
    scores: torch.Tensor


class DensePoseRCNN(nn.Module):
    """The complete network; call `people`."""

    def __init__(self, widths: Widths | None = None, *, short: int = SHORT_SIDE, long: int = LONG_SIDE):
        """Build the network with random weights.

        Args:
            widths: the released ones when ``None``.
            short, long: images are scaled to this shorter side, but at most to this longer one.
        """
        super().__init__()
        widths = widths or Widths()
        # Arguments so that tests can use small images.
        self.short, self.long = short, long
        self.backbone = Backbone(widths)
        self.proposal_generator = ProposalGenerator(widths.pyramid)
        self.roi_heads = RegionHeads(widths)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @torch.inference_mode()
    def people(
        self,
        images: list[np.ndarray],
        *,
        min_score: float = MIN_SCORE,
        max_people: int = MAX_PEOPLE,
        margin: float = 0.0,
    ) -> list[list[Person]]:
        """Find people and their body parts.

        Args:
            images: RGB uint8 (H, W, 3), all of one size.
            min_score: smallest score of a person.
            max_people: number of people with the highest scores that are kept per image.
            margin: sides of a box that cut off the body are moved out by this share of the box, and its parts
                are computed again; 0 is as published.

        Returns:
            The people in each image, by falling score.
        """
        picture = images[0].shape[:2]
        size = network_size(*picture, short=self.short, long=self.long)
        levels = self.backbone(network_input(images, size, self.device))
        found = self.detect(levels, size, min_score=min_score)
        # Without people the decoder, a large part of the work, is not needed.
        if not any(len(people.boxes) for people in found):
            return [[] for _ in images]
        decoded = self.roi_heads.decode(levels)
        return [
            self._charted(decoded[number : number + 1], people, size, picture, max_people, margin)
            for number, people in enumerate(found)
        ]

    def _charted(
        self,
        decoded: torch.Tensor,
        people: Found,
        size: tuple[int, int],
        picture: tuple[int, int],
        max_people: int,
        margin: float,
    ) -> list[Person]:
        """The people in one image with their parts."""
        # Boxes that are empty after clipping are dropped, as by detectron2's postprocessing.
        _, has_area = rescaled(people.boxes, size, picture)
        charted = []
        # One person at a time, so that a crowd takes no more memory.
        for k in torch.nonzero(has_area).flatten().tolist()[:max_people]:
            seen, score = people.boxes[k : k + 1], float(people.scores[k])
            person = self._person(decoded, seen, score, size, picture)
            if margin:
                # The labels show whether the box cut anything off, so they are computed first.
                wider, _ = clipped(widened(seen, cut_sides(person.labels), margin), size)
                if not torch.equal(wider, seen):
                    person = self._person(decoded, wider, score, size, picture)
            charted.append(person)
        return charted

    def _person(
        self,
        decoded: torch.Tensor,
        seen: torch.Tensor,
        score: float,
        size: tuple[int, int],
        picture: tuple[int, int],
    ) -> Person:
        """The person in a box (1, 4), given in pixels of the network's input."""
        (box,), _ = rescaled(seen, size, picture)
        charts = self.roi_heads.charts(decoded, [seen])
        _, _, width, height = box_corner_and_size(box)
        labels, coordinates = chart_result(*(chart[0] for chart in charts), size=(height, width))
        corner_and_size = (*box[:2].tolist(), *(box[2:] - box[:2]).tolist())
        return Person(corner_and_size, score, labels.cpu().numpy(), as_bytes(coordinates).cpu().numpy())

    def detect(
        self, levels: dict[str, torch.Tensor], size: tuple[int, int], *, min_score: float = MIN_SCORE
    ) -> list[Found]:
        """Detect people from the levels of the backbone; ``size`` is (h, w) without padding."""
        proposals = [boxes for boxes, _ in self.proposal_generator(levels, size)]
        logits, deltas = self.roi_heads.score_boxes(levels, proposals)
        counts = [len(boxes) for boxes in proposals]
        return [
            Found(*choose_people(*parts, size, min_score=min_score)[:2])
            for parts in zip(proposals, logits.split(counts), deltas.split(counts), strict=True)
        ]


def box_corner_and_size(box: torch.Tensor) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 -> x, y, width, height, each truncated to whole pixels."""
    x0, y0, x1, y1 = box.unbind()
    return int(x0), int(y0), int(x1 - x0), int(y1 - y0)


def chart_result(
    coarse: torch.Tensor, fine: torch.Tensor, u: torch.Tensor, v: torch.Tensor, *, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The part and coordinates of every pixel of a box.

    The logits are resized to the box. Where the coarse ones find a body, a pixel gets the most likely part.

    Args:
        coarse: logits of background and body, (2, h, w).
        fine, u, v: logits of the parts, and coordinates on each part, (25, h, w); coordinates are about 0..1.
        size: (H, W) of the box; the result has at least one pixel.

    Returns:
        labels uint8 (H, W), 0..24; coordinates float32 (2, H, W), 0 on the background.
    """
    size = (max(size[0], 1), max(size[1], 1))

    def stretched(logits: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]

    # The coarse logits decide about the body's outline, the fine ones only about parts.
    labels = stretched(fine).argmax(dim=0) * (stretched(coarse).argmax(dim=0) > 0)
    coordinates = torch.stack([stretched(plane).gather(0, labels[None])[0] for plane in (u, v)])
    return labels.to(torch.uint8), coordinates * (labels > 0)


def as_bytes(coordinates: torch.Tensor) -> torch.Tensor:
    """Coordinates in 0..1 as uint8 in 0..255, truncated."""
    return (coordinates * 255).clamp(0, 255).to(torch.uint8)


def network_size(
    height: int, width: int, *, short: int = SHORT_SIDE, long: int = LONG_SIDE
) -> tuple[int, int]:
    """The size ``(h, w)`` to which an image of ``height`` x ``width`` is scaled."""
    scale = short / min(height, width)
    scaled = (short, scale * width) if height < width else (scale * height, short)
    if max(scaled) > long:
        shrink = long / max(scaled)
        scaled = (scaled[0] * shrink, scaled[1] * shrink)
    # Rounded as in detectron2, not to even numbers as by round().
    return max(1, int(scaled[0] + 0.5)), max(1, int(scaled[1] + 0.5))


def resized_bgr(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize RGB uint8 (H, W, 3) with Pillow's bilinear filter, as detectron2 does: BGR uint8 (h, w, 3)."""
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)[..., ::-1]


def network_input(images: list[np.ndarray], size: tuple[int, int], device: torch.device) -> torch.Tensor:
    """The network's input for images of one size, RGB uint8 (H, W, 3): float32 (N, 3, h+, w+), BGR."""
    bgr = np.stack([resized_bgr(image, size) for image in images])
    batch = torch.from_numpy(bgr).to(device).movedim(-1, 1).float()
    # Before the padding, whose zeros are then an average grey.
    batch = batch - torch.tensor(_MEAN_BGR, device=device).view(3, 1, 1)
    down, right = (-side % _STRIDE for side in size)
    return functional.pad(batch, (0, right, 0, down))
