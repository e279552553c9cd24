"""The part segmenter: a small network for the 24 DensePose parts, trained on synthetic people.

`python -m training segmenter` trains it. It finds people in photos, evaluates animations in the benchmarks,
and stands in for DensePose where the released weights are missing; it is not DensePose.

Letters in shape comments: ``N`` images, ``H W`` pixels, ``h w`` pixels of the network's input, ``D``
features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from magicanimate import ASSETS
from magicanimate.device import LOADING
from magicanimate.errors import InputError

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DModel

DEFAULT_FOLDER = ASSETS / "segmenter"
NUM_LABELS = 25
PATCH = 4  # side of the squares of pixels that the network takes, and returns, as channels
STRIDE = 8 * PATCH  # sides of the network's input are multiples of this
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FILES = ("config.json", _WEIGHTS)
_AT_ONCE = 16

LEAST_CERTAINTY = 0.6
"""Below this certainty, what `PartSegmenter.segment` finds is no person."""


def is_segmenter(folder: Path) -> bool:
    """Whether a folder has the files of a part segmenter."""
    return all((folder / name).is_file() for name in _FILES)


def require_segmenter(folder: Path) -> None:
    """Check that a folder has the files of a part segmenter.

    Raises:
        InputError: naming the missing one, and how to make them.
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

    # The class is a diffusion model's, so it takes a timestep, which is always 0.
    return functional.pixel_shuffle(network(functional.pixel_unshuffle(images, PATCH), 0).sample, PATCH)


def level_features(network: UNet2DModel, images: torch.Tensor) -> list[torch.Tensor]:
    """Features of the down blocks: images ``N 3 h w`` in [-1, 1] -> ``N D h' w'`` of each level."""
    # By forward hooks, as diffusers' network returns only its last output.
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
    """Segment a photo, uint8 (H, W, 3) -> part ids (H, W), all 0 if nobody is detected.

    Raises:
        InputError: the bundled segmenter is missing.
    """
    labels, certainty = PartSegmenter.load().segment(photo[None])
    return labels[0] if certainty[0] >= LEAST_CERTAINTY else labels[0] * 0


class PartSegmenter:
    """Labels images with DensePose parts.

    Attributes:
        size: longer side, in pixels, to which images are scaled for the network.
    """

    def __init__(self, network: UNet2DModel):
        self.network, self.size = network, network.config.sample_size * PATCH

    @classmethod
    def load(cls, folder: Path | str = DEFAULT_FOLDER) -> PartSegmenter:
        """Load the network from a folder with its ``config.json`` and weights.

        Raises:
            InputError: the folder does not hold such a network.
        """
        folder = Path(folder)
        require_segmenter(folder)
        # diffusers must not be imported by two threads at once.
        with LOADING:
            from diffusers import UNet2DModel

            network = UNet2DModel.from_pretrained(folder).float().eval().requires_grad_(False)
        # Another UNet2DModel would load just as well.
        if network.config.out_channels != NUM_LABELS * PATCH**2:
            raise InputError(
                f"The network in {folder} does not tell {NUM_LABELS} labels apart; choose another."
            )
        return cls(network)

    def labels(self, images: np.ndarray) -> np.ndarray:
        """Part of every pixel: uint8 ``N H W 3`` -> uint8 ``N H W``, 0 (background) to 24."""
        return self.segment(images)[0]

    def segment(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of every pixel, and how certain that is.

        Args:
            images: uint8 ``N H W 3``.

        Returns:
            Part ids, uint8 ``N H W``, from 0 (background) to 24; and certainties, float32 ``N``: the mean
            probability of the parts, 0 if none was found. For people in photos it is 0.75 or more; for walls,
            skies, hills and plain colours up to 0.55.
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
                    # Logits rather than labels are resized, so that borders stay smooth.
                    logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
                found.append(logits.argmax(1).to(torch.uint8).cpu())
        return torch.cat(found).numpy(), torch.cat(certainty).float().cpu().numpy()

    def features(self, images: np.ndarray) -> list[np.ndarray]:
        """Features of the down blocks: uint8 ``N H W 3`` -> float32 ``N D h' w'`` of each level."""
        import torch

        with torch.no_grad():
            batches = [level_features(self.network, batch) for batch in self._batches(images)]
        return [torch.cat(level).float().cpu().numpy() for level in zip(*batches, strict=True)]

    def _batches(self, images: np.ndarray) -> Iterator[torch.Tensor]:
        """Yield batches ``N 3 h w`` in [-1, 1]: longer side about ``size``, sides multiples of the stride."""
        import torch
        from torch.nn import functional

        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or not len(images):
            raise ValueError(f"images must be uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        scale = self.size / max(images.shape[1:3])
        target = [max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in images.shape[1:3]]
        for first in range(0, len(images), _AT_ONCE):
            batch = np.array(images[first : first + _AT_ONCE])
            batch = torch.from_numpy(batch).movedim(-1, 1).float() / 127.5 - 1
            # Antialiased: photos may be many times larger than the network's input.
            if list(batch.shape[2:]) != target:
                batch = functional.interpolate(
                    batch, size=target, mode="bilinear", align_corners=False, antialias=True
                )
            yield batch.to(self.network.device)
