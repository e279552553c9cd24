"""Augmentation of rendered pictures and their part maps, strong enough to leave the renderer's look behind.

Letters in shape comments: ``H W`` pixels. Inside, pictures are float32 ``3 H W`` in [0, 1], maps int64.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from magicanimate.media.photo import load_photo
from magicanimate.palette import FLIP_PERMUTATION

_BLUR_RADIUS = 4
_LEFT_CLEAN = 0.3


def augment(
    rgb: np.ndarray, parts: np.ndarray, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Change geometry, and most often colours and sharpness, at random; the labels follow.

    Args:
        rgb: uint8 ``H W 3``.
        parts: uint8 ``H W``, 0..24.
        rng: all chance comes from it.

    Returns:
        Image float32 ``3 H W`` in [-1, 1] and labels int64 ``H W``.
    """
    if rng.random() < 0.5:
        rgb, parts = rgb[:, ::-1], FLIP_PERMUTATION[parts[:, ::-1]]
    image = torch.from_numpy(np.array(rgb)).movedim(-1, 0).float() / 255
    labels = torch.from_numpy(np.array(parts)).long()
    image, labels = _transform(image, labels, rng)
    if rng.random() < 0.4:
        _hide(image, labels, rng)
    if rng.random() >= _LEFT_CLEAN:
        image = _compress(_soften(_recolour(image, rng), rng), rng)
    return image * 2 - 1, labels


def _colour(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.random((3, 1, 1), dtype=np.float32))


def _transform(
    image: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom, stretch, turn and shift; what comes from outside the picture is a plain colour, label 0."""
    zoom, stretch = np.exp(rng.uniform(-0.3, 0.5)), np.exp(rng.uniform(-0.1, 0.1))
    angle, (x, y) = rng.uniform(-0.2, 0.2), rng.uniform(-0.25, 0.25, 2)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = torch.tensor([[[cos * stretch, -sin, x], [sin, cos / stretch, y]]], dtype=torch.float32)
    grid = functional.affine_grid(rows, [1, *image.shape], align_corners=False)
    inside = (grid[0].abs() <= 1).all(-1)
    moved = functional.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
    ids = functional.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return torch.where(inside, moved, _colour(rng)), torch.where(inside, ids.long(), 0)


def _hide(image: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> None:
    """Put a box of colour in front, which is background, or a box from elsewhere in the picture."""
    size = len(labels)
    height, width = rng.integers(size // 12, size // 3, 2)
    y, there_y = rng.integers(0, size - height, 2)
    x, there_x = rng.integers(0, size - width, 2)
    box = (slice(y, y + height), slice(x, x + width))
    if rng.random() < 0.5:
        image[:, box[0], box[1]], labels[box] = _colour(rng), 0
    else:
        there = (slice(there_y, there_y + height), slice(there_x, there_x + width))
        image[:, box[0], box[1]] = image[:, there[0], there[1]].clone()
        labels[box] = labels[there].clone()


def _recolour(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Gain, offset, gamma and saturation; now and then the channels change places."""
    if rng.random() < 0.1:
        image = image[rng.permutation(3)]
    gain = torch.from_numpy(rng.uniform(0.65, 1.35) * rng.uniform(0.85, 1.15, (3, 1, 1))).float()
    gamma, offset = np.exp(rng.uniform(-0.35, 0.35)), rng.uniform(-0.1, 0.1)
    image = (image * gain + offset).clamp(1e-3, 1) ** gamma
    grey = image.mean(0, keepdim=True)
    saturation = 0.0 if rng.random() < 0.1 else rng.uniform(0.4, 1.3)
    return (grey + (image - grey) * saturation).clamp(0, 1)


def _soften(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, take the fine detail out, add noise: each of them sometimes."""
    if rng.random() < 0.5:
        offsets = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1.0)
        kernel = torch.exp(-0.5 * (offsets / rng.uniform(0.4, 1.8)) ** 2)
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        planes = functional.pad(image[:, None], (_BLUR_RADIUS,) * 4, mode="replicate")
        image = functional.conv2d(functional.conv2d(planes, kernel), kernel.transpose(2, 3))[:, 0]
    if rng.random() < 0.25:
        size = image.shape[-1]
        coarse = functional.interpolate(image[None], size=int(size * rng.uniform(0.35, 0.8)), mode="area")
        image = functional.interpolate(coarse, size=size, mode="bilinear")[0]
    if rng.random() < 0.5:
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        image = image + rng.uniform(0, 0.05) * noise
    return image.clamp(0, 1)


def _compress(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """JPEG, sometimes."""
    if rng.random() >= 0.3:
        return image
    file = io.BytesIO()
    pixels = (image * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(25, 90)))
    return torch.from_numpy(load_photo(file.getvalue())).movedim(-1, 0).float() / 255
