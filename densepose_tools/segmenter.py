"""A small network that finds the 24 DensePose parts in a picture, trained on synthetic people.

`python -m training segmenter` makes its folder. It judges animations in the benchmarks and stands in for
DensePose where the real network's weights are not at hand; it is not DensePose.

Letters in shape comments: ``N`` pictures, ``H W`` pixels, ``h w`` pixels the network sees, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate import ASSETS
from magicanimate.errors import InputError
from magicanimate.importing import LOADING

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DModel

DEFAULT_FOLDER = ASSETS / "segmenter"
NUM_LABELS = 25
PATCH = 4  # the network takes and gives squares of so many pixels as channels
STRIDE = 8 * PATCH  # sides of what the network sees are multiples of this
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FILES = ("config.json", _WEIGHTS)
_AT_ONCE = 16

LEAST_CERTAINTY = 0.6
"""Below, what `PartSegmenter.segment` found is no person; see there."""


def is_segmenter(folder: Path) -> bool:
    """Whether the files of a part segmenter lie there."""
    return all((folder / name).is_file() for name in _FILES)


def require_segmenter(folder: Path) -> None:
    """Refuse a folder without the files of a part segmenter.

    Raises:
        InputError: which one is missing, and how to make them.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise InputError(
                f"{folder / name} is missing, so {folder} is not a part segmenter; make one with "
                "`python -m training segmenter`."
            )


def part_logits(network: UNet2DModel, images: torch.Tensor) -> torch.Tensor:
    """Run the network: images ``N 3 h w`` in [-1, 1] -> logits ``N 25 h w``."""
    from torch.nn import functional

    # the timestep belongs to the network's class and carries nothing here
    return functional.pixel_shuffle(network(functional.pixel_unshuffle(images, PATCH), 0).sample, PATCH)


def level_features(network: UNet2DModel, images: torch.Tensor) -> list[torch.Tensor]:
    """What the levels on the way down see: images ``N 3 h w`` in [-1, 1] -> ``N D h' w'`` of each."""
    levels: list[torch.Tensor] = []
    hooks = [
        block.resnets[-1].register_forward_hook(lambda _module, _inputs, out: levels.append(out))
        for block in network.down_blocks
    ]
    try:
        part_logits(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return levels


def parts_in_photo(photo: np.ndarray) -> np.ndarray:
    """The parts of the people in a photo, uint8 (H, W, 3) -> (H, W); all 0 if nobody is recognised.

    Raises:
        InputError: there is nothing that finds them.
    """
    labels, certainty = PartSegmenter.load().segment(photo[None])
    return labels[0] if certainty[0] >= LEAST_CERTAINTY else labels[0] * 0


class PartSegmenter:
    """Labels pictures with DensePose parts.

    Attributes:
        size: pixels of the longer side at which the network works; pictures are scaled to it.
    """

    def __init__(self, network: UNet2DModel):
        self.network, self.size = network, network.config.sample_size * PATCH

    @classmethod
    def load(cls, folder: Path | str = DEFAULT_FOLDER) -> PartSegmenter:
        """Load a folder with the network's ``config.json`` and weights.

        Raises:
            InputError: the folder does not hold such a network.
        """
        folder = Path(folder)
        require_segmenter(folder)
        with LOADING:
            from diffusers import UNet2DModel

            network = UNet2DModel.from_pretrained(folder).float().eval().requires_grad_(False)
        if network.config.out_channels != NUM_LABELS * PATCH**2:
            raise InputError(
                f"The network in {folder} does not tell {NUM_LABELS} labels apart; choose another."
            )
        return cls(network)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Part of every pixel: uint8 ``N H W 3`` -> uint8 ``N H W``, 0 (background) to 24."""
        return self.segment(images)[0]

    def segment(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Part of every pixel, and how sure that is.

        Args:
            images: uint8 ``N H W 3``.

        Returns:
            uint8 ``N H W``, 0 (background) to 24; and float32 ``N``, the mean probability of the parts, 0
            where none was found. People in photos have 0.75 and more; walls, skies, hills and plain colours
            up to 0.55.
        """
        import torch
        from torch.nn import functional

        size, found, certainty = images.shape[1:3], [], []
        with torch.no_grad():
            for batch in self._batches(images):
                logits = part_logits(self.network, batch)
                best, label = logits.softmax(1).max(1)
                body = label > 0
                certainty.append((best * body).sum((1, 2)) / body.sum((1, 2)).clamp(min=1))
                if logits.shape[2:] != size:
                    logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
                found.append(logits.argmax(1).to(torch.uint8).cpu())
        return torch.cat(found).numpy(), torch.cat(certainty).float().cpu().numpy()

    def features(self, images: np.ndarray) -> list[np.ndarray]:
        """What the levels on the way down see: uint8 ``N H W 3`` -> float32 ``N D h' w'`` of each."""
        import torch

        with torch.no_grad():
            batches = [level_features(self.network, batch) for batch in self._batches(images)]
        return [torch.cat(level).float().cpu().numpy() for level in zip(*batches, strict=True)]

    def _batches(self, images: np.ndarray) -> Iterator[torch.Tensor]:
        """Yield batches ``N 3 h w``: the longer side is ``size``, the sides multiples of the stride."""
        import torch
        from torch.nn import functional

        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        scale = self.size / max(images.shape[1:3])
        target = [max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in images.shape[1:3]]
        for first in range(0, len(images), _AT_ONCE):
            batch = np.array(images[first : first + _AT_ONCE])
            batch = torch.from_numpy(batch).movedim(-1, 1).float() / 127.5 - 1
            if list(batch.shape[2:]) != target:
                batch = functional.interpolate(
                    batch, size=target, mode="bilinear", align_corners=False, antialias=True
                )
            yield batch.to(self.network.device)
