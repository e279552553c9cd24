"""The engines that find people and their body parts, behind one interface.

- ``torch``: the released DensePose network on torch and torchvision, with nothing to compile.
- ``detectron2``: the same network through detectron2 and its DensePose project. It is configured here, as in
that
  project's ``densepose_rcnn_R_50_FPN_s1x.yaml``, which the package does not include.
- ``mini``: the small part segmenter as a stand-in, for the offline demo. It labels whole images, so it finds
one person
  per image and has no scores or coordinates.

`load_extractor` loads one. "auto" is detectron2 where it can be imported, else torch; and mini, with a
warning, if the released weights are neither present nor available.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from densepose_tools.people import Person
from densepose_tools.segmenter import DEFAULT_FOLDER, LEAST_CERTAINTY, PartSegmenter, is_segmenter
from densepose_tools.weights import RETRY_DELAYS, Unreachable, ensure_weights, load_network, read_converted
from magicanimate.config import OnProgress, ShouldStop
from magicanimate.device import pick_device
from magicanimate.errors import InputError

if TYPE_CHECKING:
    from densepose_tools.rcnn.network import DensePoseRCNN

PUBLISHED_MIN_SCORE = 0.05
"""The score threshold with which the published motion clips were made. It draws much that is no person."""


@dataclass(frozen=True)
class Selection:
    """Which of the people it finds an extractor reports.

    Attributes:
        min_score: smallest score, 0.05..1; `PUBLISHED_MIN_SCORE` is as published.
        max_people: the people with the highest scores that are kept per image, 1..100.
        margin: sides of a box that cut off the body are moved out by this share of the box, 0..0.5; 0 is as
            published.
    """

    min_score: float = 0.5
    max_people: int = 100
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not PUBLISHED_MIN_SCORE <= self.min_score < 1:
            raise InputError(
                f"The score threshold is {self.min_score}; give a number from {PUBLISHED_MIN_SCORE} (as "
                "published) to below 1."
            )
        if not 1 <= self.max_people <= 100:
            raise InputError(f"The most people are {self.max_people}; give a number from 1 to 100.")
        if not 0 <= self.margin <= 0.5:
            raise InputError(f"The margin is {self.margin}; give a share of the box from 0 to 0.5.")


class Extractor(Protocol):
    """Finds people and their body parts in images.

    Attributes:
        name: "detectron2", "torch" or "mini".
        batch: how many images to give at once.
    """

    name: str
    batch: int

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """The people in each image, by falling score; images are RGB uint8 (H, W, 3), all of one size."""


_SMALLEST_SHARE = 0.002
"""Smallest share of the image that a person covers; less is noise."""


class MiniExtractor:
    """The part segmenter as an `Extractor`."""

    name = "mini"
    batch = 8

    def __init__(self, segmenter: PartSegmenter):
        self.segmenter = segmenter

    @classmethod
    def load(cls, folder: Path, *, device: str | None) -> MiniExtractor:
        """Load the part segmenter.

        Raises:
            InputError: the folder does not hold one.
        """
        segmenter = PartSegmenter.load(folder)
        segmenter.network.to(pick_device(device, "float32").name)
        return cls(segmenter)

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """See `Extractor`."""
        # Labels and certainty of each image.
        found = zip(*self.segmenter.segment(np.stack(frames)), strict=True)
        # The segmenter always labels something; below this certainty it is no person.
        return [_as_person(labels) if certainty >= LEAST_CERTAINTY else [] for labels, certainty in found]


def _as_person(labels: np.ndarray) -> list[Person]:
    """The person in a part map, uint8 (H, W), with the box around it; empty if there are too few pixels."""
    rows, columns = np.nonzero(labels)
    if len(rows) < _SMALLEST_SHARE * labels.size:
        return []
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    # The person's box, as from the other engines, so that all that follows treats them alike.
    box = (float(left), float(top), float(width), float(height))
    # Nothing is known about its score: the certainty has been checked already.
    return [Person(box, 1.0, labels[top : top + height, left : left + width])]


_BATCH_ON_GPU = 4


class TorchExtractor:
    """DensePose on torch as an `Extractor`."""

    name = "torch"

    def __init__(self, network: DensePoseRCNN, selection: Selection):
        self.network, self.selection = network, selection
        self.batch = 1 if network.device.type == "cpu" else _BATCH_ON_GPU

    @classmethod
    def load(cls, weights: Path, *, device: str, selection: Selection) -> TorchExtractor:
        """Load converted weights.

        Raises:
            InputError: they are damaged or not DensePose's.
        """
        return cls(load_network(weights, device=device), selection)

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """See `Extractor`."""
        wanted = self.selection
        return self.network.people(
            list(frames), min_score=wanted.min_score, max_people=wanted.max_people, margin=wanted.margin
        )


_CONFIG = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.DENSEPOSE_ON": True,
    "MODEL.ROI_HEADS.NAME": "DensePoseROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_DENSEPOSE_HEAD.NAME": "DensePoseV1ConvXHead",
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS": 2,
}


class Detectron2Extractor:
    """DensePose through detectron2 as an `Extractor`."""

    name = "detectron2"
    batch = 1

    def __init__(self, predictor: Any, selection: Selection):
        self.predictor, self.selection = predictor, selection

    @classmethod
    def load(cls, weights: Path, *, device: str, selection: Selection) -> Detectron2Extractor:
        """Load converted weights into detectron2's predictor.

        Raises:
            InputError: detectron2 cannot be imported or builds another network than the released one.
        """
        try:
            from densepose import add_densepose_config
            from detectron2.config import get_cfg
            from detectron2.engine import DefaultPredictor
        except ImportError as error:
            raise InputError(
                f"detectron2 is installed but cannot be imported ({error}); use the engine torch instead."
            ) from error
        import torch

        config = get_cfg()
        add_densepose_config(config)
        settings = _CONFIG | {
            "MODEL.DEVICE": device,
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": selection.min_score,
            "TEST.DETECTIONS_PER_IMAGE": selection.max_people,
        }
        # detectron2 wants names and values in one flat list.
        config.merge_from_list([item for pair in settings.items() for item in pair])
        predictor = DefaultPredictor(config)
        state = {name: torch.from_numpy(array) for name, array in read_converted(weights).items()}
        # Not strict, so that what is missing can be named in a sentence.
        missing, extra = predictor.model.load_state_dict(state, strict=False)
        # What detectron2 computes itself and the released file need not have.
        own = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
        if extra or any(not name.startswith(own) for name in missing):
            raise InputError(
                f"detectron2 builds another network than the released one (missing {missing[:1]}, left over "
                f"{extra[:1]}); use the engine torch instead."
            )
        return cls(predictor, selection)

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """See `Extractor`."""
        return [self._people(frame) for frame in frames]

    def _people(self, frame: np.ndarray) -> list[Person]:
        from densepose.converters import ToChartResultConverter

        # detectron2 expects BGR.
        found = self.predictor(np.ascontiguousarray(frame[..., ::-1]))["instances"]
        people = []
        for k in range(len(found)):
            chart = ToChartResultConverter.convert(found.pred_densepose[k], found.pred_boxes[k])
            # detectron2 gives opposite corners; `Person` has corner and size.
            x0, y0, x1, y1 = (float(number) for number in found.pred_boxes.tensor[k])
            people.append(
                Person(
                    (x0, y0, x1 - x0, y1 - y0),
                    float(found.scores[k]),
                    chart.labels.cpu().numpy().astype(np.uint8),
                    (chart.uv * 255).clamp(0, 255).cpu().numpy().astype(np.uint8),
                )
            )
        return people


log = logging.getLogger(__name__)

ENGINES = ("auto", "detectron2", "torch", "mini")

_RETRIES = (1.0, 2.0)
"""Seconds between attempts to fetch the weights where the mini can stand in for them."""


def load_extractor(
    engine: str = "auto",
    *,
    weights: Path | None = None,
    device: str | None = None,
    selection: Selection | None = None,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> Extractor:
    """Load an extractor.

    Args:
        engine: one of `ENGINES`, see the top of this file.
        weights: the released ``model_final_162be9.pkl`` or its converted copy, downloaded when ``None``; for
            the engine mini, the folder of a part segmenter.
        device: "cuda", "cuda:1", "mps" or "cpu"; the best one when ``None``.
        selection: which people to report.
        offline: do not download anything.
        on_progress: called with the progress of "download" and "convert".
        should_stop: polled while downloading.

    Raises:
        InputError: the engine is unknown or not installed, or its weights cannot be used or downloaded.
        Cancelled: ``should_stop()`` returned true.
    """
    if engine not in ENGINES:
        raise InputError(f"The engine {engine!r} is unknown; choose one of: {', '.join(ENGINES)}.")
    selection = selection or Selection()
    if engine == "mini":
        return MiniExtractor.load(weights or DEFAULT_FOLDER, device=device)
    if engine == "detectron2" and selection.margin:
        raise InputError("The engine detectron2 keeps boxes as they are; use torch for a margin.")
    if engine == "detectron2" and not has_detectron2():
        raise InputError(
            "detectron2 with its DensePose project is not installed; use the engine torch instead."
        )
    # Before a download of 256 MB that could not be used.
    _require_torchvision()
    # Fewer attempts to download where something else can do the work.
    may_be_mini = engine == "auto" and weights is None and has_mini()
    picked = pick_device(device, "float32").name
    try:
        path = ensure_weights(
            weights,
            offline=offline,
            on_progress=on_progress,
            should_stop=should_stop,
            retry_delays=_RETRIES if may_be_mini else RETRY_DELAYS,
        )
    except Unreachable as error:
        if not may_be_mini:
            raise
        log.warning("%s Until then the mini finds the parts; it is a small stand-in, not DensePose.", error)
        return MiniExtractor.load(DEFAULT_FOLDER, device=device)
    # A margin needs our own box code, so it decides for torch.
    if engine != "torch" and has_detectron2() and not selection.margin:
        try:
            return Detectron2Extractor.load(path, device=picked, selection=selection)
        except InputError as error:
            if engine == "detectron2":
                raise
            log.warning("%s", error)
    return TorchExtractor.load(path, device=picked, selection=selection)


def has_detectron2() -> bool:
    """Whether detectron2 and its DensePose project are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("detectron2", "densepose"))


def has_mini() -> bool:
    """Whether the mini's part segmenter lies in this program's assets."""
    return is_segmenter(DEFAULT_FOLDER)


def _require_torchvision() -> None:
    """Check that the network of the engine "torch" can be imported, before its weights are downloaded."""
    try:
        import densepose_tools.rcnn.network  # noqa: F401
    except (ImportError, RuntimeError) as error:  # torchvision of another release fails with the latter
        raise InputError(
            f"torchvision is missing or does not fit the torch that is installed ({error}); install the two "
            "of one release and one kind, both for CPU or both for CUDA."
        ) from error
