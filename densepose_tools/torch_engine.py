"""The engine "torch": the released network on torch and torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densepose_tools.engine import Selection
from densepose_tools.people import Person
from densepose_tools.rcnn.network import DensePoseRCNN
from densepose_tools.weights import load_network

_BATCH_ON_GPU = 4


class TorchExtractor:
    """See ``densepose_tools.engine.Extractor``."""

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
        """See ``Extractor``."""
        wanted = self.selection
        return self.network.people(
            list(frames), min_score=wanted.min_score, max_people=wanted.max_people, margin=wanted.margin
        )
