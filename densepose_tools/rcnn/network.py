"""DensePose R-CNN: people of a picture and the part of every pixel of theirs.

A feature pyramid, proposals, boxes, and DensePose's charts in the boxes; the names of all weights are those
of the released R_50_FPN_s1x (detectron2, projects/DensePose).

Letters in shape comments: ``N`` pictures, ``H W`` their pixels, ``P`` people.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from densepose_tools.people import Person
from densepose_tools.rcnn.backbone import Backbone
from densepose_tools.rcnn.boxes import clipped, cut_sides, rescaled, widened
from densepose_tools.rcnn.charts import as_bytes, box_corner_and_size, chart_result
from densepose_tools.rcnn.picture import LONG_SIDE, SHORT_SIDE, network_input, network_size
from densepose_tools.rcnn.proposals import ProposalGenerator
from densepose_tools.rcnn.regions import MAX_PEOPLE, MIN_SCORE, RegionHeads, choose_people
from densepose_tools.rcnn.widths import Widths, released


@dataclass(frozen=True)
class Found:
    """People of one picture, best first, on the network's device.

    Attributes:
        boxes: (P, 4) of x0, y0, x1, y1 in pixels that the network sees.
        scores: (P,), 0..1.
    """

    boxes: torch.Tensor
    scores: torch.Tensor


class DensePoseRCNN(nn.Module):
    """The whole network; `people` is the way in."""

    def __init__(self, widths: Widths | None = None, *, short: int = SHORT_SIDE, long: int = LONG_SIDE):
        """Build it with random weights.

        Args:
            widths: the released ones when ``None``.
            short, long: pictures are scaled to that shorter, or at most that longer side.
        """
        super().__init__()
        widths = widths or released()
        self.short, self.long = short, long
        self.backbone = Backbone(widths)
        self.proposal_generator = ProposalGenerator(widths.pyramid)
        self.roi_heads = RegionHeads(widths)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
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
        """Find people and their parts.

        Args:
            images: RGB uint8 (H, W, 3), all of one size.
            min_score: people less sure than this are left out.
            max_people: the surest so many of a picture are kept.
            margin: sides of a box that cut off the body move out by this share of the box, and the parts
                are read again; as published, boxes stay as they are found.

        Returns:
            The people of each picture, surest first.
        """
        picture = images[0].shape[:2]
        size = network_size(*picture, short=self.short, long=self.long)
        levels = self.backbone(network_input(images, size, self.device))
        found = self.detect(levels, size, min_score=min_score)
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
        """People of one picture with their parts; one at a time, so that a crowd takes no more memory."""
        _, has_area = rescaled(people.boxes, size, picture)
        charted = []
        for k in torch.nonzero(has_area).flatten().tolist()[:max_people]:
            seen, score = people.boxes[k : k + 1], float(people.scores[k])
            person = self._person(decoded, seen, score, size, picture)
            if margin:
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
        """Somebody in a box (1, 4) of pixels that the network sees, with the parts."""
        (box,), _ = rescaled(seen, size, picture)
        charts = self.roi_heads.charts(decoded, [seen])
        _, _, width, height = box_corner_and_size(box)
        labels, coordinates = chart_result(*(chart[0] for chart in charts), size=(height, width))
        corner_and_size = (*box[:2].tolist(), *(box[2:] - box[:2]).tolist())
        return Person(corner_and_size, score, labels.cpu().numpy(), as_bytes(coordinates).cpu().numpy())

    def detect(
        self, levels: dict[str, torch.Tensor], size: tuple[int, int], *, min_score: float = MIN_SCORE
    ) -> list[Found]:
        """People of each picture, from the levels of the backbone; ``size`` is (h, w) without padding."""
        proposals = [boxes for boxes, _ in self.proposal_generator(levels, size)]
        logits, deltas = self.roi_heads.score_boxes(levels, proposals)
        counts = [len(boxes) for boxes in proposals]
        return [
            Found(*choose_people(*parts, size, min_score=min_score)[:2])
            for parts in zip(proposals, logits.split(counts), deltas.split(counts), strict=True)
        ]
