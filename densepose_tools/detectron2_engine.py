"""The engine "detectron2": the released network through detectron2 and its DensePose project.

The network is configured here, as in ``densepose_rcnn_R_50_FPN_s1x.yaml`` of that project, whose package does
not carry the file; weights are those that the engine "torch" uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densepose_tools.engine import Selection
from densepose_tools.people import Person
from densepose_tools.weights import read_converted
from magicanimate.errors import InputError

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
    """See ``densepose_tools.engine.Extractor``."""

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
        config.merge_from_list([item for pair in settings.items() for item in pair])
        predictor = DefaultPredictor(config)
        state = {name: torch.from_numpy(array) for name, array in read_converted(weights).items()}
        missing, extra = predictor.model.load_state_dict(state, strict=False)
        own = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
        if extra or any(not name.startswith(own) for name in missing):
            raise InputError(
                f"detectron2 builds another network than the released one (missing {missing[:1]}, left over "
                f"{extra[:1]}); use the engine torch instead."
            )
        return cls(predictor, selection)

    def people(self, frames: Sequence[np.ndarray]) -> list[list[Person]]:
        """See ``Extractor``."""
        return [self._people(frame) for frame in frames]

    def _people(self, frame: np.ndarray) -> list[Person]:
        from densepose.converters import ToChartResultConverter

        found = self.predictor(np.ascontiguousarray(frame[..., ::-1]))["instances"]
        people = []
        for k in range(len(found)):
            chart = ToChartResultConverter.convert(found.pred_densepose[k], found.pred_boxes[k])
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
