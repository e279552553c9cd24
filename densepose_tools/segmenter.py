"""A small network that finds the 24 DensePose parts in a picture, trained on synthetic people.

`python -m training segmenter` makes its folder. It judges animations in the benchmarks and stands in for
DensePose where the real network's weights are not at hand; it is not DensePose.

Letters in shape comments: ``N`` pictures, ``H W`` pixels, ``h w`` pixels of the network, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import SegformerForSemanticSegmentation

DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "assets" / "segmenter"
NUM_LABELS = 25
STRIDE = 32  # sides of what the network sees are multiples of this
_AT_ONCE = 16


def network_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 ``N 3 h w`` -> what the network takes, float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


class PartSegmenter:
    """Labels pictures with DensePose parts.

    Attributes:
        size: pixels of the longer side at which the network works; pictures are scaled to it.
    """

    def __init__(self, network: SegformerForSemanticSegmentation, *, size: int):
        self.network, self.size = network.eval().requires_grad_(False), size

    @classmethod
    def load(cls, folder: Path | str = DEFAULT_FOLDER) -> PartSegmenter:
        """Load a folder with ``config.json`` and ``model.safetensors``.

        Raises:
            InputError: the folder does not hold such a network.
        """
        import torch
        from transformers import SegformerForSemanticSegmentation

        folder = Path(folder)
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise InputError(
                    f"{folder / name} is missing: {folder} is not a part segmenter; make one with "
                    "`python -m training segmenter`."
                )
        network = SegformerForSemanticSegmentation.from_pretrained(folder, dtype=torch.float32)
        if network.config.num_labels != NUM_LABELS:
            raise InputError(
                f"{folder} tells {network.config.num_labels} labels apart and a part segmenter {NUM_LABELS}; "
                "choose another folder."
            )
        return cls(network, size=network.config.image_size)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Part of every pixel: uint8 ``N H W 3`` -> uint8 ``N H W``, 0 (background) to 24."""
        import torch
        from torch.nn import functional

        size = images.shape[1:3]
        found = []
        with torch.inference_mode():
            for batch in self._batches(images):
                logits = self.network(batch).logits
                logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
                found.append(logits.argmax(1).to(torch.uint8))
        return torch.cat(found).numpy()

    def features(self, images: np.ndarray) -> list[np.ndarray]:
        """What the four stages of the encoder see: uint8 ``N H W 3`` -> float32 ``N D h w`` of each."""
        import torch

        with torch.inference_mode():
            encoder = self.network.segformer
            stages = [encoder(b, output_hidden_states=True).hidden_states for b in self._batches(images)]
            return [torch.cat(stage).numpy() for stage in zip(*stages, strict=True)]

    def _batches(self, images: np.ndarray) -> Iterator[torch.Tensor]:
        """Yield batches ``N 3 h w``: the longer side is ``size``, the sides multiples of the stride."""
        import torch
        from torch.nn import functional

        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        scale = self.size / max(images.shape[1:3])
        target = [max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in images.shape[1:3]]
        for first in range(0, len(images), _AT_ONCE):
            batch = np.ascontiguousarray(images[first : first + _AT_ONCE])
            batch = network_input(torch.from_numpy(batch).movedim(-1, 1))
            if list(batch.shape[2:]) != target:
                batch = functional.interpolate(
                    batch, size=target, mode="bilinear", align_corners=False, antialias=True
                )
            yield batch
